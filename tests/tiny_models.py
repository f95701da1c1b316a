"""Small real models of others, made on the spot."""

import json

import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.nnet.losses import ctc_loss
from transformers import (
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Model,
    Wav2Vec2Processor,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

WIDTH = 16
DEPTH = 2
SIZES = {
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
SELF_SUPERVISED = {
    "wav2vec2": (Wav2Vec2Config, Wav2Vec2Model),
    "hubert": (HubertConfig, HubertModel),
    "wavlm": (WavLMConfig, WavLMModel),
}


def save_tiny_models(root):
    """Writes a folder a kind, as `save_pretrained` does."""
    torch.manual_seed(0)
    for name, (config, model) in SELF_SUPERVISED.items():
        model(config(**SIZES)).save_pretrained(root / name)
        Wav2Vec2FeatureExtractor().save_pretrained(root / name)
    config = WhisperConfig(
        vocab_size=60,
        d_model=WIDTH,
        encoder_layers=DEPTH,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    WhisperModel(config).save_pretrained(root / "whisper")
    WhisperFeatureExtractor().save_pretrained(root / "whisper")


def save_tiny_recogniser(folder):
    """A wav2vec 2.0 that writes letters, untrained."""
    torch.manual_seed(0)
    folder.mkdir()
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFGH"]
    vocabulary = folder / "vocab.json"
    vocabulary.write_text(json.dumps({x: i for i, x in enumerate(letters)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(vocabulary))
    processor = Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), tokenizer)
    processor.save_pretrained(folder)
    config = Wav2Vec2Config(**SIZES, vocab_size=len(letters), pad_token_id=0)
    Wav2Vec2ForCTC(config).save_pretrained(folder)


SPEECHBRAIN_ASR = """\
sample_rate: 8000
compute_features: !new:speechbrain.lobes.features.Fbank
    sample_rate: !ref <sample_rate>
    n_mels: 10
normalize: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
enc: !new:speechbrain.nnet.linear.Linear
    input_size: 10
    n_neurons: 12
encoder: !new:speechbrain.nnet.containers.LengthsCapableSequential
    compute_features: !ref <compute_features>
    normalize: !ref <normalize>
    enc: !ref <enc>
decoder: !new:torch.nn.Identity
tokenizer: !new:speechbrain.dataio.encoder.CTCTextEncoder
decoding_function: !name:speechbrain.decoders.ctc.ctc_greedy_decode
    blank_id: 0
modules:
    encoder: !ref <encoder>
    decoder: !ref <decoder>
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        enc: !ref <enc>
        tokenizer: !ref <tokenizer>
"""


def save_tiny_asr(folder):
    """An ASR trained with CTC for a second, in SpeechBrain's layout."""
    (folder / "hyperparams.yaml").write_text(SPEECHBRAIN_ASR)
    torch.manual_seed(1)
    hparams = load_hyperpyyaml(SPEECHBRAIN_ASR)
    encoder, layer = hparams["encoder"], hparams["enc"]
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.01)
    wavs, letters = torch.randn(4, 8000), torch.randint(1, 12, (4, 5))
    ones = torch.ones(4)
    for _ in range(20):
        letter_probs = encoder(wavs, ones).log_softmax(-1)
        loss = ctc_loss(letter_probs, letters, ones, ones, blank_index=0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    torch.save(layer.state_dict(), folder / "enc.ckpt")
    tokenizer = hparams["tokenizer"]
    tokenizer.insert_blank(index=0)
    tokenizer.update_from_iterable("abcdefghijk")
    tokenizer.save(folder / "tokenizer.ckpt")
