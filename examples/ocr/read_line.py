"""Read a line of text from a picture with a deployed bundle.

python -m examples.ocr.read_line BUNDLE PICTURE
"""

from __future__ import annotations

import argparse
from pathlib import Path

from examples.ocr.metric import alphabet, decode
from examples.ocr.render import preprocess


def read_line(bundle: Path, picture: Path) -> str:
    """The text in a picture of one line."""
    from PIL import Image

    import edgesdk

    with edgesdk.load(bundle) as session:
        (probabilities,) = session.run({"x": preprocess(Image.open(picture))}).values()
    return decode(probabilities[0], alphabet()).strip()


def main() -> None:
    """Print what the picture says."""
    parser = argparse.ArgumentParser(prog="python -m examples.ocr.read_line")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    print(read_line(arguments.bundle, arguments.picture))


if __name__ == "__main__":
    main()
