"""What mirp, a maintained IBSI implementation, finds. Run as a program of its own:

    python mirp_peer.py FOLDER       # with image.npy, mask.npy and spacing.json in it

ITK, which mirp reads files by, and GDCM, which pydicom decodes by, do not end well in one process.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np


def main(folder: Path) -> None:
    """Print the features as one JSON object on the last line."""
    import itk
    import mirp

    spacing = json.loads((folder / "spacing.json").read_text())
    for name in ("image", "mask"):  # it takes pixel sizes only from files, so it gets files
        image = itk.image_from_array(np.load(folder / f"{name}.npy"))
        image.SetSpacing([float(step) for step in spacing[::-1]])
        itk.imwrite(image, str(folder / f"{name}.nrrd"))
    (table,) = mirp.extract_features(
        image=str(folder / "image.nrrd"),
        mask=str(folder / "mask.nrrd"),
        image_modality="ct",
        base_feature_families=["morphological", "statistical"],
        write_features=False,
        export_features=True,
    )
    wanted = (name for name in table.columns if name[:4] in {"morp", "stat"})
    print(json.dumps({name: float(table[name].iloc[0]) for name in wanted}))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]))
