r"""A preview of the evaluation section as it would be printed: USENIX's two columns, every number a macro.

Sets the run's section, what is said of further published runs, and the appendix, and compiles it with pdflatex. It
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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from evaluation.analysis.material import Material
from evaluation.command import Refusal, parser, run
from evaluation.paper.arguments import add_options, material_of
from evaluation.records.atomic import write_bytes
from evaluation.text.latex import environment

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
    """The article around the section of a run, and behind it what is said of the published runs beside that one."""
    further = sorted(path.parent.name for path in material.outputs.glob("*/further.tex"))
    return environment().get_template("article.tex.j2").render(run=material.name, further=further)


@dataclass(frozen=True, kw_only=True)
class Preview:
    """The PDF, and of its section the page of each label, and the pages on which each is mentioned."""

    pdf: bytes
    pages: dict[str, int]
    mentions: dict[str, set[int]]

    @property
    def section_pages(self) -> int:
        """How many pages the section takes, its figures and tables included; the appendix goes on behind it."""
        return max(self.pages.values())

    def astray(self) -> list[str]:
        """Figures and tables of the section that are not mentioned on their page or a page before or behind."""
        floats = {label: page for label, page in self.pages.items() if label.startswith(("fig:", "tab:"))}
        return [
            label for label, page in floats.items() if not {page - 1, page, page + 1} & self.mentions.get(label, set())
        ]


def preview(material: Material) -> Preview:
    """The section of a run as it would be printed; raises :class:`PreviewError` for defects."""
    if shutil.which("pdflatex") is None:
        raise PreviewError("pdflatex is not installed (Debian: texlive-latex-recommended texlive-fonts-recommended)")
    text, folder = source(material), material.outputs
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        for path in [*folder.glob("*.pdf"), *folder.glob("*.tex"), *folder.glob("*/*.tex")]:
            copied = place / path.relative_to(folder)
            copied.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copied)
        (place / "preview.tex").write_text(text, encoding="utf-8")
        # Nothing of the time, uncompressed objects to look into, and lines of the log that are not broken.
        settings = {"SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1", "max_print_line": "10000"}
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", _START]
        for _ in range(2):  # once more for the references
            done = subprocess.run(command, cwd=place, env={**os.environ, **settings}, capture_output=True, check=False)
        log = done.stdout.decode("utf-8", "replace")
        found = [*in_log(log), *(defect for path in sorted(place.rglob("*")) for defect in in_file(path))]
        if done.returncode and not found:
            found = [log[-500:]]
        if found:
            raise PreviewError("\n".join(dict.fromkeys(found)))
        return _placed(place)


def _placed(place: Path) -> Preview:
    section = (place / "section.tex").read_text(encoding="utf-8")
    inputs = [section, *((place / f"{name}.tex").read_text(encoding="utf-8") for name in _INPUT.findall(section))]
    own = {"end-of-section", *(label for text in inputs for label in re.findall(r"\\label\{(.*?)\}", text))}
    aux = (place / "preview.aux").read_text(encoding="utf-8")
    pages = re.findall(r"^\\newlabel\{(.*?)\}\{\{.*?\}\{(\d+)\}", aux, re.MULTILINE)
    mentions: dict[str, set[int]] = {}
    for label, page in re.findall(r"^\\mention *\{(.*?)\}\{(\d+)\}", aux, re.MULTILINE):
        mentions.setdefault(label, set()).add(int(page))
    found = {label: int(page) for label, page in pages if label in own}
    return Preview(pdf=(place / "preview.pdf").read_bytes(), pages=found, mentions=mentions)


_INPUT = re.compile(r"\\input\{(\w+)\}")
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
    for match in re.finditer(rb"stream\r?\n(.*?)\nendstream", pdf, re.DOTALL):
        try:
            content = zlib.decompressobj().decompress(match[1])  # which leaves alone what is behind its end
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
        write_bytes(given.out, preview(material).pdf)
        print(f"{given.out}: the run {material.name} as it would be printed, without a defect")

    return run(command)


if __name__ == "__main__":
    sys.exit(main())
