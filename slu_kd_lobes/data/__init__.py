"""From files to batches: manifests, slots, transcripts, audio, features."""
