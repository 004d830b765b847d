"""Every file that pydicom brings along ends as a stack or in one of our errors, nothing else."""

from pathlib import Path

import numpy as np
import pydicom.data
import pytest

from core.errors import SentinodeError
from workers.images.build import build_stacks
from workers.images.read import read_series

FOLDER = Path(pydicom.data.__file__).parent / "test_files"
FILES = sorted(path for path in FOLDER.rglob("*") if path.is_file())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["images", "volume"])
def test_no_file_surprises(make, kind):
    outcomes = {}
    for path in FILES:
        try:
            stacks = build_stacks(read_series([path]), getattr(make, kind), max_voxels=make.room)
        except SentinodeError as error:
            outcomes[path.name] = type(error).__name__
            continue
        for stack in stacks:
            assert stack.array.shape[0] == len(stack.frames), path
            assert np.isfinite(stack.array).all(), path
        outcomes[path.name] = "stack"
    # These are whole images; if one of them is refused, something broke.
    whole = {"MR_small.dcm", "CT_small.dcm", "J2K_pixelrep_mismatch.dcm", "MR_small_RLE.dcm"}
    if kind == "images":
        whole |= {"examples_palette.dcm", "examples_ybr_color.dcm", "SC_rgb_rle_16bit_2frame.dcm"}
    assert {outcomes[name] for name in whole} == {"stack"}
    assert outcomes["test-SR.dcm"] == outcomes["rtdose.dcm"] == "NotApplicableError"
    assert outcomes["JPEG2000-embedded-sequence-delimiter.dcm"] != "stack"
