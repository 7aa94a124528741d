"""What the commands print."""

import shutil
import subprocess
import sys

from helpers.commands import flags, letgo


def test_report_writes_figures_of_a_finished_run(finished, tmp_path):
    out = shutil.copytree(finished, tmp_path / "out")
    before = (out / "report.html").read_bytes()
    status, text, error = letgo("report", "--output_dir", out, "--figures", "pdf,svg")
    assert status == 0, error
    assert "done before" in error
    made = sorted((out / "figures").iterdir())
    assert {path.suffix for path in made} == {".pdf", ".svg"}
    assert all(f"figure: {path}\n" in text for path in made)
    assert (out / "report.html").read_bytes() == before
    (out / "metrics.json").unlink()
    status, text, error = letgo("report", "--output_dir", out)
    assert (status, text.splitlines()[-1][:14]) == (0, "no verdict yet"), error
    status, _, error = letgo("report", "--output_dir", out, "--figures", "jpg")
    assert (status, error.count("\n")) == (2, 1)
    assert "--figures: must be one or several of svg, pdf, png" in error


def test_help_and_version_import_no_torch():
    code = (
        "import sys; sys.argv = ['letgo', sys.argv[1]]; import letgo.cli; letgo.cli.main(); "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    for flag in ("--help", "--version"):
        done = subprocess.run([sys.executable, "-c", code, flag], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "letgo" in done.stdout
    assert letgo("fly")[0] == 2
    assert "no command 'fly'" in letgo("fly")[2]


def test_quiet_prints_results_only(tiny, data, tmp_path):
    words = flags(tiny, data, tmp_path / "out", quiet="true")
    status, out, error = letgo("run", *words)
    assert status == 0
    assert error == ""
    assert "verdict:" in out
