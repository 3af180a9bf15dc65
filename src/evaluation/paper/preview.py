r"""A preview of the evaluation section as it would be printed: USENIX's two columns, every number a macro.

Reads the folder of a run's figures, tables, numbers and claims, writes text around what is there, and compiles it with
pdflatex. It is refused if LaTeX stops, for references that lead nowhere, boxes that stick out, floats that do not fit a
page, characters that a font lacks, ``nan`` in what is printed, and Type 3 fonts. Needs Debian's
``texlive-latex-recommended`` and ``texlive-fonts-recommended``; nothing else of the artifact does.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

from evaluation.records.atomic import write_bytes
from evaluation.records.runs import Json, RunError, read_object
from evaluation.text.latex import Latex, environment
from evaluation.text.macro import camel, in_words

_PEERS = {"memory_saver": "torch_memory_saver", "process_checkpoint": "the driver's process checkpoint"}
_FIGURES = {"activation": "crossover.pdf", "session": "clocks.pdf", "decode": "crossover_decode.pdf"}
_DEFECTS = (
    r"^! .*",
    r"^LaTeX Warning: (?:Reference|Citation|Hyper reference) .* undefined.*",
    r"^LaTeX Warning: .*multiply defined.*",
    r"^LaTeX Warning: Float too large .*",
    r"^Overfull \\[hv]box .*",
    r"^Missing character: .*",
)
_NOT_A_NUMBER = re.compile(r"(?<![A-Za-z])(nan|inf|None)(?![A-Za-z])")


class PreviewError(Exception):
    """The preview has a defect, or cannot be made; the message has a line for each."""


def source(folder: Path, results: Path) -> str:
    """The LaTeX source for the figures, tables and numbers in ``folder``, of a run whose records lie in ``results``.

    Raises :class:`RunError` for files that are missing or not what they should be, :class:`PreviewError` for a number
    that the text needs and the run does not have.
    """
    numbers, claims = (read_object(folder / name) for name in ("numbers.json", "claims.json"))
    records = results / ("local" if claims["run"] == "local" else f"published/{claims['run']}")
    study = read_object(records / "study.json")
    workloads = study["workloads"]
    files = {path.name for path in folder.iterdir() if path.suffix in (".pdf", ".tex")}
    values = {number["name"]: number["value"] for number in numbers["numbers"]}

    def number(name: str) -> Latex:
        if name not in values:
            raise PreviewError(f"the text needs \\{name}, which {folder / 'numbers.json'} does not have")
        return Latex(rf"\{name}{{}}")

    return (
        environment()
        .get_template("preview.tex.j2")
        .render(
            run=claims["run"],
            functional=claims["functional"],
            workloads=[_workload(one, claims, files) for one in workloads],
            deepest=values["DeepestLayer"],
            paused=[values[name] for name in ("DjinnLoadFewestSessions", "DjinnLoadMostSessions") if name in values],
            sweep_layers=study.get("sweep", {}).get("layers", []),
            peers=list(_peers(values, [one["name"] for one in workloads])),
            files=files,
            number=number,
            has=values.__contains__,
            in_words=in_words,
            camel=camel,
            raw=Latex,
        )
    )


def _workload(workload: Json, claims: Json, files: set[str]) -> Json:
    """What the text says of a workload; C5's remark on the clock ready tells where its lines cross."""
    name = workload["name"]
    figure = _FIGURES.get(name, "")
    of_ready = ("C5", name, "ready")
    remarks = [
        claim["remark"] for claim in claims["claims"] if (claim["id"], claim["workload"], claim["clock"]) == of_ready
    ]
    return {
        "name": name,
        "kv_cache": workload["kv_cache"],
        "decode_step": workload.get("decode_step", 0),
        "figure": figure if figure in files else "",
        "crossing": "".join(remarks[:1]),
    }


def _peers(known: Container[str], workloads: Sequence[str]) -> Iterator[dict[str, Any]]:
    """In words, and for each workload of which there is a number, that number's macro."""
    for peer, words in _PEERS.items():
        macros = {workload: f"Peer{camel(peer)}{camel(workload)}ReadyMs" for workload in workloads}
        if ready := {workload: macro for workload, macro in macros.items() if macro in known}:
            yield {"words": words, "ready": ready}


def preview(folder: Path, results: Path) -> bytes:
    """The PDF; takes and raises what :func:`source` does, and raises :class:`PreviewError` for defects."""
    if shutil.which("pdflatex") is None:
        raise PreviewError("pdflatex is not installed (Debian: texlive-latex-recommended texlive-fonts-recommended)")
    text = source(folder, results)
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
    arguments = argparse.ArgumentParser(
        prog="python -m evaluation.paper.preview",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_argument("--figures", type=Path, default=Path("paper_figures"), help="default: paper_figures")
    arguments.add_argument("--results", type=Path, default=Path("results"), help="where the runs lie; default: results")
    arguments.add_argument("--out", type=Path, required=True, help="the PDF")
    given = arguments.parse_args()
    try:
        write_bytes(given.out, preview(given.figures, given.results))
    except PreviewError as error:
        print("\n".join(f"error: {line}" for line in str(error).splitlines()), file=sys.stderr)
        return 1
    except (RunError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
