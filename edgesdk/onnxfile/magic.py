"""What a file that is no ONNX model is instead, and how to make one of it."""

from __future__ import annotations

_EXPORT_TORCH = "load it in PyTorch and call torch.onnx.export"
_EXPORT_KERAS = "export it with tf2onnx or keras' model.export(format='onnx')"
_EXPORT_TFLITE = "convert it with `python -m tf2onnx.convert --tflite FILE`"
_WEIGHTS_ONLY = "it holds weights without a graph: build the model in its framework and export that"
_ORIGINAL = "it is made for one engine: give the ONNX file that it was made from"

# (offset, bytes, what it is, what to do)
_MAGIC: tuple[tuple[int, bytes, str, str], ...] = (
    (
        0,
        b"version https://git-lfs",
        "a Git LFS pointer, not the file itself",
        "run `git lfs pull`",
    ),
    (4, b"TFL3", "a TensorFlow Lite model", _EXPORT_TFLITE),
    (4, b"ORTM", "an ONNX Runtime .ort file", _ORIGINAL),
    (0, b"PK\x03\x04", "a ZIP archive (PyTorch .pt, TorchScript, .keras, .npz)", _EXPORT_TORCH),
    (0, b"\x80\x02", "a Python pickle (older PyTorch .pt or .pth)", _EXPORT_TORCH),
    (0, b"\x80\x04", "a Python pickle", _EXPORT_TORCH),
    (0, b"\x80\x05", "a Python pickle", _EXPORT_TORCH),
    (0, b"\x89HDF\r\n", "an HDF5 file (Keras .h5)", _EXPORT_KERAS),
    (0, b"GGUF", "a GGUF file", _WEIGHTS_ONLY),
    (0, b"ptrt", "a TensorRT engine", _ORIGINAL),
    (0, b"\x93NUMPY", "a numpy array", "give the model, not its data"),
    (0, b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (0, b"BZh", "a bzip2 archive", "unpack it first"),
    (0, b"\xfd7zXZ", "an xz archive", "unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive", "unpack it first"),
    (0, b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
    (257, b"ustar", "a tar archive", "unpack it first"),
    (0, b"\x89PNG", "a PNG image", "give the model, not its data"),
    (0, b"\xff\xd8\xff", "a JPEG image", "give the model, not its data"),
    (0, b"GIF8", "a GIF image", "give the model, not its data"),
    (8, b"WEBP", "a WebP image", "give the model, not its data"),
    (8, b"WAVE", "a WAV sound", "give the model, not its data"),
    (0, b"%PDF", "a PDF", "give the model"),
    (0, b"\x7fELF", "a program or library", "give the model"),
)
_MARKUP = (
    (b"<!doctype html", "a web page", "the download failed: fetch the file itself"),
    (b"<html", "a web page", "the download failed: fetch the file itself"),
    (b"<?xml", "an XML file (OpenVINO IR?)", _ORIGINAL),
    (b"<net", "an OpenVINO IR", _ORIGINAL),
)
HEAD_BYTES = 512
"""How much of a file's beginning `describe_bytes` looks at."""


def describe_bytes(head: bytes) -> tuple[str, str]:
    """What the beginning of a file says it is, and what to do with it."""
    for offset, magic, what, advice in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return what, advice
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 40:
        return "a safetensors file", _WEIGHTS_ONLY
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for start, what, advice in _MARKUP:
        if text.startswith(start):
            return what, advice
    if _is_text(head):
        return "a text file", "give a binary .onnx file"
    return "damaged, or of an unknown kind", "give an .onnx file as its exporter wrote it"


def _is_text(head: bytes) -> bool:
    # The head may end inside a character of up to four bytes.
    decoded = head.decode("utf-8", errors="ignore")
    whole = len(head) - len(decoded.encode()) < 4
    return bool(decoded) and whole and all(c.isprintable() or c in "\r\n\t\f" for c in decoded)
