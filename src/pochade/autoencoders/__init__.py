"""Autoencoders, by name. A new kind joins by one line of ``AUTOENCODERS``."""

AUTOENCODERS: dict[str, str] = {
    "deep_compression": "pochade.autoencoders.deep_compression:DeepCompressionVAE",
    "pretrained": "pochade.autoencoders.pretrained:PretrainedAutoencoder",
    "tiny": "pochade.autoencoders.tiny:TinyAutoencoder",
    "tiny_decoder": "pochade.autoencoders.tiny_decoder:TinyVAEDecoder",
    "wavelet": "pochade.autoencoders.wavelet:WaveletVAE",
}
"""Kind -> "module:class"; ``tiny_decoder`` decodes alone."""
