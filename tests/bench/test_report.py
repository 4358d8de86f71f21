"""Reports of whole and killed runs: the page, the Markdown, what is compared, and what is said of what is missing."""

import base64
import json
import re
from html.parser import HTMLParser

import pytest
from journal_support import cut_off, write_run
from run_support import splitrail

from splitrail.bench.breakdown import Breakdown
from splitrail.bench.compare import changed_settings, compare_runs
from splitrail.bench.finished_run import FinishedRun, ReportError
from splitrail.bench.report import make_report
from splitrail.bench.report_markdown import to_markdown
from splitrail.bench.report_page import to_html
from splitrail.bench.report_tables import run_facts, runs_table
from splitrail.bench.run_set import find_runs, series_of, without_journal
from splitrail.launch.cli import main
from splitrail.stages.synthetic_bundle import make_synthetic_bundle

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Checks that tags close, and collects what a browser would fetch."""

    def __init__(self, text):
        super().__init__()
        self.open, self.fetched, self.images, self.words = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "data"):
                (self.images if value.startswith("data:image/png;base64,") else self.fetched).append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_is_whole_in_itself(tmp_path):
    write_run(tmp_path / "one", num=200)
    write_run(tmp_path / "two", num=40, detector="<script>alert(1)</script>")
    steps = []
    report = make_report(find_runs([tmp_path]), progress=lambda done, total: steps.append((done, total)))
    text = to_html(report)
    page = Page(text)
    assert page.fetched == []
    assert "@import" not in text
    assert "url(" not in text
    assert "<script" not in text
    for image in page.images:
        assert base64.b64decode(image.partition(",")[2]).startswith(b"\x89PNG")
    # Seven of all runs, two of each.
    assert len(page.images) == 7 + 2 * 2
    assert steps[-1][0] == steps[-1][1]
    said = " ".join(page.words)
    for words in ("Throughput by placement", "Waiting by cause", "Service times", "link", "workstation", "25.0"):
        assert words in said
    assert "Power: not measured (the runs were not asked to)." in said
    assert "too few frames" in said


def test_markdown_has_the_same_tables(tmp_path):
    write_run(tmp_path, num=40, detector="a|b")
    report = make_report(find_runs([tmp_path]))
    text = to_markdown(report)
    tables = re.findall(r"(?:^\|.*\|\n)+", text + "\n", re.MULTILINE)
    assert len(tables) == sum(len(section.tables) for section in [*report.sections, *report.runs])
    for table in tables:
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.strip().splitlines()}
        assert len(columns) == 1
    assert "![" not in text
    assert "(figures/throughput.png)" in to_markdown(report, "figures")


def test_a_killed_run_is_reported_from_its_journals(tmp_path):
    write_run(tmp_path, num=60, last_frame=40, ended=False)
    cut_off(tmp_path, 0)
    cut_off(tmp_path, 1)
    (run,) = find_runs([tmp_path])
    assert run.num_cut_off == 2
    said = " ".join(Page(to_html(make_report([run]))).words)
    assert "2 line(s) of the journals were cut off" in said
    assert "did not come to its end" in said
    assert run.name.endswith(" *")
    (row,) = runs_table([run]).rows
    found = dict(zip(runs_table([run]).headers, row, strict=True))
    assert (found["frames"], found["peak memory (MB)"]) == ("41 of 60, 19 unfinished", "not measured + not measured")
    assert found["proofs"].startswith("invalid: ")
    (tmp_path / "summary.json").write_text('{"error": "rank 1 was killed", "fps": 1e9}')
    (run,) = find_runs([tmp_path])
    # The summary's own numbers count for nothing where the journals have them.
    assert run.summary["fps"] == pytest.approx(25, rel=0.01)
    assert "The run failed: rank 1 was killed. This is what its journals hold." in run_facts(run)


def test_a_rank_without_a_journal_is_not_measured(tmp_path):
    write_run(tmp_path, num=30, ended=False, last_frame=10)
    (tmp_path / "journal-rank1.jsonl").unlink()
    (run,) = find_runs([tmp_path])
    assert "No journal came from rank 1: what it did is not measured." in run_facts(run)


def test_a_line_cut_off_in_the_middle_of_a_journal_is_left_out(tmp_path):
    write_run(tmp_path, num=10)
    path = tmp_path / "journal-rank0.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[20] = lines[20][:15]  # a full disk: this line's end is missing and the next one follows it directly
    path.write_bytes(b"".join(lines))
    run = FinishedRun.load(tmp_path)
    assert run.num_cut_off == 1
    assert len(run.journals[0]) == len(lines) - 2


def test_runs_are_found_named_and_ordered(tmp_path):
    for number, (placement, detector, rate) in enumerate(
        [("transformer", "r18", "5mbit"), ("full", "r50", "5mbit"), ("full", "r18", "5mbit"), ("full", "r18", "50mbit")]
    ):
        command = f"splitrail run --link-rate {rate}"
        write_run(tmp_path / "sweep" / str(number), num=5, placement=placement, detector=detector, command=command)
    (tmp_path / "sweep" / "never-began").mkdir()
    (tmp_path / "sweep" / "never-began" / "mpirun.log").write_text("no slots")
    runs = find_runs([tmp_path / "sweep"])
    assert [run.name.removesuffix(" *") for run in runs] == [
        "full, r18, link 5mbit",
        "full, r18, link 50mbit",
        "transformer, r18, link 5mbit",
        "full, r50, link 5mbit",
    ]
    groups = series_of(runs)
    assert list(groups) == ["r18", "r50"]
    assert set(groups["r18"]) == {"full, link 5mbit", "full, link 50mbit", "transformer, link 5mbit"}
    assert without_journal([tmp_path]) == [tmp_path / "sweep" / "never-began"]
    report = make_report(runs[:1], missing=without_journal([tmp_path]))
    assert any("never-began" in sentence for sentence in report.sections[0].sentences)


def test_repeats_keep_their_folders_names(tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / name, num=5)
    assert {run.name.removesuffix(" *") for run in find_runs([tmp_path])} == {"backbone (a)", "backbone (b)"}


def test_a_change_beyond_the_spread_is_told_from_one_within(tmp_path):
    before = FinishedRun.load(write_run(tmp_path / "a", num=150, jitter_ms=6))
    slower = FinishedRun.load(write_run(tmp_path / "b", num=150, jitter_ms=6, transformer_ms=12, threads=2))
    changes = {change.name: change for change in compare_runs([before], [slower])}
    transformer = changes["service transformer"]
    assert (transformer.a, transformer.b) == pytest.approx((8, 12), abs=0.3)
    assert transformer.verdict == "more"
    assert transformer.low <= transformer.difference <= transformer.high
    assert transformer.difference == pytest.approx(0.5, abs=0.05)
    assert changes["capture to output"].verdict == "more"
    # Both keep up with the source.
    assert changes["throughput"].verdict == "within the spread"
    assert changes["throughput"].low < 0 < changes["throughput"].high
    assert changes["service backbone"].verdict == "within the spread"
    assert ("threads", "1", "2") in changed_settings(before, slower)


def test_a_run_against_itself_has_not_changed(tmp_path):
    run = FinishedRun.load(write_run(tmp_path, num=100, jitter_ms=8))
    assert {change.verdict for change in compare_runs([run], [run])} == {"within the spread"}
    assert changed_settings(run, run) == []


def test_repeats_that_differ_widen_the_spread(tmp_path):
    sides = []
    for side, services in (("a", (8, 12, 9)), ("b", (10, 13, 8.5))):
        for number, transformer_ms in enumerate(services):
            write_run(tmp_path / side / str(number), num=60, transformer_ms=int(transformer_ms))
        sides.append(find_runs([tmp_path / side]))
    changes = {change.name: change for change in compare_runs(*sides)}
    assert changes["service transformer"].verdict == "within the spread"
    single = {change.name: change for change in compare_runs(sides[0][:1], sides[1][:1])}
    assert single["service transformer"].verdict == "more"


def test_few_frames_are_not_compared(tmp_path):
    a, b = (FinishedRun.load(write_run(tmp_path / name, num=12)) for name in "ab")
    assert {change.verdict for change in compare_runs([a], [b])} == {"too few frames"}
    none = FinishedRun.load(write_run(tmp_path / "none", num=12, last_frame=-1, ended=False))
    assert compare_runs([a], [none])[0].verdict == "not measured"


def test_the_verb_writes_page_markdown_figures_and_traces(tmp_path, capsys):
    folder = write_run(tmp_path / "run", num=40)
    assert main(["report", str(folder)]) == 0
    assert (folder / "report.html").exists()
    assert (folder / "report.md").exists()
    assert json.loads((folder / "trace.json").read_text())["traceEvents"]
    other = write_run(tmp_path / "other", num=40, transformer_ms=12)
    page = tmp_path / "new" / "compared.html"
    capsys.readouterr()
    command = ["report", "--compare", str(folder), str(other), "--out", str(page), "--figures", "--json"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert "Comparison" in page.read_text()
    assert [run["folder"] for run in found["runs"]] == [str(folder), str(other)]
    verdicts = {change["name"]: change["verdict"] for change in found["comparison"]}
    assert verdicts["service transformer"] == "more"
    assert all((page.parent / "compared-figures" / f"{name}.png").exists() for name in ("throughput", "timeline-0"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{empty}"], "has no journal of a run"),
        ([], "no folder to report of"),
        (["{run}", "--out", "{file}/report.html"], "cannot be written"),
        (["{run}", "--out", "{empty}/report.md"], "name ends in .html"),
    ],
)
def test_what_can_be_mended_is_said_in_a_sentence(tmp_path, capsys, arguments, words):
    write_run(tmp_path / "run", num=5)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    places = {name: str(tmp_path / name) for name in ("run", "empty", "file")}
    assert main(["report", *(argument.format(**places) for argument in arguments)]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in said
    assert said.startswith("splitrail: ")


@pytest.mark.mpi
def test_a_real_runs_journals_tell_lanes_and_links(tmp_path):
    make_synthetic_bundle(tmp_path / "bundle")
    words = ["--bundle", tmp_path / "bundle", "--placement", "transformer", "--source", "scenes:frames=12"]
    done = splitrail("run", *words, "--engine", "onnxruntime", "--threads", 1, "--no-video", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    (run,) = find_runs([tmp_path / "out"])
    assert run.settings["detector"] == "synthetic"
    assert [(lane.rank, lane.name) for lane in run.chain.lanes] == [
        (0, "source+preprocess"),
        (0, "relay"),
        (1, "backbone"),
        (0, "transformer"),
        (0, "postprocess+sink"),
    ]
    assert run.chain.edges() == ["0->1 pixels", "1->0 features_fp16"]
    # Every stage and every wait finds its lane, and every frame both crossings.
    assert all(run.chain.of_stage(work.rank, work.stage) for work in run.work)
    assert all(run.chain.of_wait(wait.rank, wait.cause, wait.where) for wait in run.waits)
    assert len(run.transfers) == 2 * 12
    assert Breakdown.of(run).num_frames == 12


def test_journals_of_another_schema_are_refused(tmp_path):
    with pytest.raises(ReportError, match="have schema 99"):
        FinishedRun.load(write_run(tmp_path, num=2, schema=99))


def test_an_empty_journal_is_no_journal(tmp_path):
    (tmp_path / "journal-rank0.jsonl").write_text('{"e":"be')
    with pytest.raises(ReportError, match="at least one line"):
        FinishedRun.load(tmp_path)
