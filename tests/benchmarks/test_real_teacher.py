"""The report on the real teacher, on the real frames."""

import pytest
import torch

from benchmarks.real_teacher import main, sample_configs
from frames.kitti.reader import read_frames
from tests.examples.published_runner import WEIGHTS, trained
from tests.frames.kitti.real_kitti import DATA, real


@real
def test_one_frame_is_in_both_samples():
    whole, cut = (
        {frame.token: frame for frame in read_frames(config)} for config in sample_configs(DATA)
    )
    assert (len(whole), len(cut)) == (3, 32)
    (shared,) = whole.keys() & cut.keys()
    assert torch.equal(whole[shared].boxes.values, cut[shared].boxes.values)


@pytest.mark.slow
@trained
def test_the_report_is_printed(capsys: pytest.CaptureFixture[str]):
    main(WEIGHTS, DATA, sigmas="0.1", seeds=1)
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:-1]]
        for line in capsys.readouterr().out.splitlines()
        if len(cells := line.split("|")) > 1
    }
    # Moderate cars; the runner's own figure is 83 in BEV with an overlap that was sampled.
    bev, space = (float(rows["Car"][column].split(" / ")[1]) for column in (0, 1))
    assert bev > 85
    assert space > 80
    assert float(rows["Car, position (m)"][1]) < 0.25
    *_, kept, _, whole = rows["Car, noise 0.1"]
    assert float(kept.split()[0]) > 0.9 > 0.65 > float(whole) > 0.55
