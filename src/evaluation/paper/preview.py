r"""A preview of the evaluation section as it would be printed: USENIX's two columns, every number a macro.

Reads a run's figures, tables, numbers and claims, writes text around what is there, and compiles it with pdflatex. It
is refused if LaTeX stops, for references that lead nowhere, boxes that stick out and floats that do not fit a page. So
it is for characters that a font lacks, ``nan`` in what is printed, and Type 3 fonts. Needs Debian's
``texlive-latex-recommended`` and ``texlive-fonts-recommended``; nothing else of the artifact does.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from evaluation.analysis.material import Material
from evaluation.analysis.variants import PEERS, plain_name
from evaluation.command import Refusal, parser, run
from evaluation.paper.arguments import add_options, material_of
from evaluation.paper.outputs import OUTPUTS
from evaluation.paper.plan import Plan
from evaluation.records.atomic import write_bytes
from evaluation.records.runs import Json, RunError, read_object
from evaluation.text.latex import Latex, environment
from evaluation.text.macro import camel, in_words

_DEFECTS = (
    r"^! .*",
    r"^LaTeX Warning: (?:Reference|Citation|Hyper reference) .* undefined.*",
    r"^LaTeX Warning: .*multiply defined.*",
    r"^LaTeX Warning: Float too large .*",
    r"^Overfull \\[hv]box .*",
    r"^Missing character: .*",
)
_NOT_A_NUMBER = re.compile(r"(?<![A-Za-z])(nan|inf|None)(?![A-Za-z])")


class PreviewError(Refusal):
    """The preview has a defect, or cannot be made; the message has a line for each."""

    status = 1


def source(material: Material) -> str:
    """The LaTeX source for the outputs of a run.

    Raises :class:`RunError` for files that are missing or not what they should be, :class:`PreviewError` for a number
    that the text needs and the run does not have.
    """
    folder, study = material.outputs, material.study
    numbers, claims = (read_object(folder / name) for name in ("numbers.json", "claims.json"))
    if claims["run"] != material.name:
        raise RunError(f"{folder / 'claims.json'}: of the run {claims['run']}, not of {material.name}")
    plan = Plan.found(material.results, material.name)
    workloads = study["workloads"]
    files = {path.name for path in folder.iterdir() if path.suffix in (".pdf", ".tex")}
    values = {number["name"]: number["value"] for number in numbers["numbers"]}

    def number(name: str) -> Latex:
        if name not in values:
            raise PreviewError(f"the text needs \\{name}, which {folder / 'numbers.json'} does not have")
        return Latex(rf"\{name}{{}}")

    def ends(name: str) -> Latex:
        """Those of its interval, in brackets behind it; nothing where there is only a range."""
        if f"{name}Low" not in values:
            return Latex("")
        return Latex(f" ({number(f'{name}Low')} to {number(f'{name}High')})")

    return (
        environment()
        .get_template("article.tex.j2")
        .render(
            run=claims["run"],
            functional=claims["functional"],
            old_protocol="pairs" not in study,
            workloads=[_workload(one, claims, _figure_of(plan, one["name"]), files) for one in workloads],
            leading=(leading := next(name for name in ("LeadingLayer", "DeepestLayer") if name in values)),
            deep=values[leading],
            paused=[values[name] for name in ("DjinnLoadFewestSessions", "DjinnLoadMostSessions") if name in values],
            sweep_layers=study.get("sweep", {}).get("layers", []),
            peers=list(_peers(study, values)),
            held="".join(map(camel, plan.workloads(kv_cache=True, decode=False)[:1])),
            files=files,
            number=number,
            ends=ends,
            has=values.__contains__,
            in_words=in_words,
            camel=camel,
            raw=Latex,
        )
    )


def _figure_of(plan: Plan, workload: str) -> str:
    """The PDF of resume latency over depth in ``workload``."""
    found = (
        output.written(name)[0]
        for output in OUTPUTS
        for name, drawn in output.names(plan, leading=False).items()
        if drawn == workload
    )
    return next(found, "")


def _workload(workload: Json, claims: Json, figure: str, files: set[str]) -> Json:
    """What the text says of a workload; C5's remark on the clock ready tells where its lines cross."""
    name = workload["name"]
    of_ready = ("C5", name, "ready")
    remarks = [
        claim["remark"] for claim in claims["claims"] if (claim["id"], claim["workload"], claim["clock"]) == of_ready
    ]
    return {
        "name": name,
        "kv_cache": workload["kv_cache"],
        "decode_step": workload.get("decode_step", 0),
        "figure": figure if figure in files else "",
        "by_clocks": figure.startswith("clocks"),
        "crossing": "".join(remarks[:1]),
    }


def _peers(study: Json, known: Container[str]) -> Iterator[dict[str, Any]]:
    """In words, and for each workload of which there is a number, that number's macro."""
    names = [workload["name"] for workload in study["workloads"]]
    for peer in study.get("peers", {}).get("run", ()):
        macros = {workload: f"Peer{camel(peer)}{camel(workload)}ReadyMs" for workload in names}
        if ready := {workload: macro for workload, macro in macros.items() if macro in known}:
            yield {"words": PEERS.get(peer, plain_name(peer)), "ready": ready}


def preview(material: Material) -> bytes:
    """The PDF; takes and raises what :func:`source` does, and raises :class:`PreviewError` for defects."""
    if shutil.which("pdflatex") is None:
        raise PreviewError("pdflatex is not installed (Debian: texlive-latex-recommended texlive-fonts-recommended)")
    text, folder = source(material), material.outputs
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        for path in folder.iterdir():
            if path.suffix in (".pdf", ".tex"):
                shutil.copyfile(path, place / path.name)
        (place / "preview.tex").write_text(text, encoding="utf-8")
        # Nothing of the time, uncompressed objects to look into, and lines of the log that are not broken.
        settings = {"SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1", "max_print_line": "10000"}
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", _START]
        for _ in range(2):  # once more for the references
            done = subprocess.run(command, cwd=place, env={**os.environ, **settings}, capture_output=True, check=False)
        log = done.stdout.decode("utf-8", "replace")
        found = [*in_log(log), *(defect for path in sorted(place.iterdir()) for defect in in_file(path))]
        if done.returncode and not found:
            found = [log[-500:]]
        if found:
            raise PreviewError("\n".join(dict.fromkeys(found)))
        return (place / "preview.pdf").read_bytes()


_START = r"\pdfcompresslevel=0\pdfobjcompresslevel=0\pdfsuppressptexinfo=-1\input{preview.tex}"


def in_log(log: str) -> list[str]:
    """The defects that LaTeX's ``log`` tells of, as it does; after an error the line where it stood."""
    found = []
    lines = log.splitlines()
    for index, line in enumerate(lines):
        if any(re.match(pattern, line) for pattern in _DEFECTS):
            where = next((other for other in lines[index : index + 12] if re.match(r"l\.\d+ ", other)), "")
            found.append(f"{line} {where}".rstrip() if line.startswith("! ") else line)
    return found


def in_file(path: Path) -> list[str]:
    """The defects of a LaTeX file or a PDF."""
    found = []
    if path.suffix == ".tex":
        texts = path.read_text(encoding="utf-8").splitlines()
    elif path.suffix == ".pdf":
        data = path.read_bytes()
        texts = list(_texts(data))
        if re.search(rb"/Subtype\s*/Type3\b", data):
            found.append(f"{path.name}: a Type 3 font")
    else:
        return []
    found += [f"{path.name}: {match[0]} in {text.strip()!r}" for text in texts if (match := _NOT_A_NUMBER.search(text))]
    return found


def _texts(pdf: bytes) -> Iterator[str]:
    """The strings that the content streams of a PDF show, in one byte a character or, as matplotlib writes, in two."""
    for match in re.finditer(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL):
        try:
            content = zlib.decompress(match[1])
        except zlib.error:
            content = match[1]
        for shown in re.finditer(rb"\((?:\\.|[^()\\])*\)\s*Tj|\[(?:\((?:\\.|[^()\\])*\)|[^\]()])*\]\s*TJ", content):
            parts = re.findall(rb"\(((?:\\.|[^()\\])*)\)", shown[0])
            yield b"".join(parts).replace(b"\0", b"").decode("latin-1")


def main() -> int:
    """Command line; returns the exit status: 0, 1 with a line for each defect, or 2 for files that are missing."""
    arguments = parser("paper.preview", __doc__)
    add_options(arguments)
    arguments.add_argument("--out", type=Path, required=True, help="the PDF")
    given = arguments.parse_args()

    def command() -> None:
        material = material_of(given)
        write_bytes(given.out, preview(material))
        print(f"{given.out}: the run {material.name} as it would be printed, without a defect")

    return run(command)


if __name__ == "__main__":
    sys.exit(main())
