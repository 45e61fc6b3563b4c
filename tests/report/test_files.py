"""The files of a record in one format, and long names in figures."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.image import imread

from ablate import cli
from ablate.analyze.arms.paired import Effect
from ablate.analyze.basis.stats import t_interval
from ablate.report import writer
from ablate.report.render import canvas, figures
from tests import ROOT
from tests.synthetic import TWO_ARMS, ablated


def test_record_as_csv_prints_its_folder_and_draws_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    ledger = ablated(tmp_path / "small", TWO_ARMS, ran=1, ablation={"exploratory": True})
    out = tmp_path / "out"
    assert writer.main([str(ledger.root), "--record", "best", "--format", "csv", "--out", str(out)]) == cli.DONE
    assert capsys.readouterr().out == f"{out / 'tables'}\n"
    assert {path.suffix for path in out.rglob("*") if path.is_file()} == {".csv"}
    assert [path.name[12:] for path in out.rglob("*progress.csv")] == ["_progress.csv"]


@pytest.mark.parametrize(
    ("variables", "matplotlibrc"),
    [
        ({"MPLBACKEND": "module://matplotlib_inline.backend_inline"}, ""),
        ({"MPLBACKEND": "nonsense"}, ""),
        ({"MPLBACKEND": "tkagg"}, ""),
        ({"MPLCONFIGDIR": "matplotlibrc/no_folder"}, ""),
        ({"MPLCONFIGDIR": "", "HOME": "/dev/null/x", "XDG_CACHE_HOME": "/dev/null/x"}, ""),
        ({}, "text.usetex: true\nfont.size: 30\nfigure.autolayout: true\nbackend: gtk4agg\n"),
    ],
    ids=["Jupyter's", "unknown", "a window's", "no folder", "no home", "a matplotlibrc"],
)
def test_a_figure_is_the_same_whatever_the_user_set_up_for_matplotlib(
    variables: dict[str, str], matplotlibrc: str, tmp_path: Path
) -> None:
    program = (
        "import hashlib; from ablate.report.render import canvas\n"
        "with canvas.style():\n"
        "    figure, axes = canvas.one_panel(height=1); axes.plot([1, 2], label='$a$'); axes.set_xlabel('x')\n"
        "print(hashlib.sha256((canvas.to_svg(figure) + str(canvas.to_png(figure))).encode()).hexdigest())"
    )
    tmp_path.joinpath("matplotlibrc").write_text(matplotlibrc)
    plain = {**os.environ, "PYTHONPATH": str(ROOT)}
    plain.pop("MPLBACKEND", None)
    drawn = [
        subprocess.run([sys.executable, "-c", program], cwd=cwd, env={**plain, **more}, capture_output=True, text=True)
        for cwd, more in ((ROOT, {}), (tmp_path, variables))
    ]
    assert [done.returncode for done in drawn] == [0, 0], drawn[1].stderr
    assert drawn[0].stdout == drawn[1].stdout
    assert drawn[1].stderr == ""


@pytest.mark.figures
@pytest.mark.parametrize(
    "name", ["knowledge_length-4.ema_update_freq-20", "W" * 100, "m_" * 50], ids=["cell", "wide", "long"]
)
def test_long_names_fit_into_a_forest_plot(name: str):
    values = t_interval([0.1, 0.2, 0.3])
    effect = Effect(
        arm=name, metric="val_loss", arm_values=values, baseline_values=values, difference=values, p=0.1, p_exact=0.1,
        p_holm=0.1, mde=0.1, mde_exact=0.1, dropped=0, pending=0, smallest_p_holm=0.01,
    )  # fmt: skip
    figure = figures.draw_effects([effect], unit="")
    pixels = imread(io.BytesIO(canvas.to_png(figure)))[..., :3]
    assert pixels[:, :3].min() > 0.6, "no ink at the left edge"
    assert figure.axes[0].get_position().width > 0.3


@pytest.mark.figures
def test_a_figures_pdf_has_no_font_that_publishers_refuse():
    """Type 3, which is Matplotlib's usual kind. Equal figures give equal files, whatever the time."""

    def drawn() -> bytes:
        with canvas.style():
            figure, axes = canvas.one_panel(height=1)
            axes.plot([-1e-3, 1], label="без памяти, −1 ± 2 Δ")
            axes.legend()
        return canvas.to_pdf(figure)

    assert b"/Type3" not in drawn()
    assert b"/FontFile2" in drawn(), "it is embedded"
    assert drawn() == drawn()
