"""What archives, catalogues and Snakemake are told of the project agrees with what it is."""

import json
import re
import tomllib
from pathlib import Path

import yaml

import djinn

ROOT = Path(__file__).parents[1]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_a_citation_names_this_version_and_nobody_else():
    """Version, licence and author are those of the package and of ``LICENSE``; no address or identifier is invented."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert CITATION["version"] == djinn.__version__
    assert CITATION["license"] == project["license"]
    (author,) = CITATION["authors"]
    licence = (ROOT / "LICENSE").read_text()
    assert licence.startswith(f"{project['license']} License\n")
    assert re.search(r"Copyright \(c\) \d+ (.+)", licence)[1] == author["name"]
    assert not re.search(r"https?:|doi|orcid", json.dumps(CITATION), re.IGNORECASE)


def test_zenodo_is_told_what_the_citation_says():
    """Word for word, under Zenodo's names of the fields."""
    assert json.loads((ROOT / ".zenodo.json").read_text()) == {
        "title": CITATION["title"],
        "upload_type": CITATION["type"],
        "description": CITATION["abstract"],
        "creators": CITATION["authors"],
        "keywords": CITATION["keywords"],
        "license": CITATION["license"],
        "access_right": "open",
        "version": CITATION["version"],
    }


def test_the_catalogue_is_told_what_is_there():
    """conda's environment; no image, as long as none was built; files that its words name."""
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    described = usage["mandatory-flags"]["desc"]
    named = re.findall(r"[\w./]*[/.]\w+", described)
    assert len(named) > 2
    assert [name for name in named if not (ROOT / name.rstrip(".")).exists()] == []
    assert usage["software-stack-deployment"] == {
        "conda": True,
        "apptainer": False,
        "apptainer+conda": False,
        "report": usage["report"],
    }


def test_snakemake_is_at_least_the_tested_version():
    """An older one is refused: nobody tried it."""
    wanted = re.search(r'^min_version\("(.+)"\)', (ROOT / "Snakefile").read_text(), re.MULTILINE)[1]
    assert f"\nsnakemake=={wanted} \\\n" in (ROOT / "envs" / "requirements.txt").read_text()


def test_the_image_has_the_pins():
    """Its recipe, which nobody could run yet, installs the files that make installs, by the same rules."""
    recipe = (ROOT / "envs" / "evaluation.def").read_text()
    (image,) = re.findall(r'^container: "(.+)"', (ROOT / "Snakefile").read_text(), re.MULTILINE)
    assert f"apptainer build {image} envs/evaluation.def\n" in recipe
    assert f"/{image}" in (ROOT / ".gitignore").read_text().splitlines()
    copied = dict(re.findall(r"^    (envs/\S+) (/\S+)$", recipe, re.MULTILINE))
    assert copied.keys() == {"envs/requirements.txt", "envs/torch.txt"}
    installs = re.findall(r"pip install --no-cache-dir (.*)", recipe)
    assert installs == [f"--require-hashes -r {copied['envs/requirements.txt']}", f"-r {copied['envs/torch.txt']}"]
    python = re.search(r"python:([\d.]+)", recipe)[1]
    assert f"- python={python}\n" in (ROOT / "envs" / "evaluation.yaml").read_text()


def test_what_measures_has_the_gpu_and_all_else_is_local():
    """One or the other, in each rule that runs a command: what a scheduler gets is what measures."""
    blocks = [
        block
        for path in (ROOT / "Snakefile", *sorted((ROOT / "rules").glob("*.smk")))
        for block in re.split(r"^(?= *rule\b.*:$)", path.read_text(), flags=re.MULTILINE)[1:]
        if "shell:" in block
    ]
    measuring = [block for block in blocks if re.search(r"^ +gpu=1,$", block, re.MULTILINE)]
    local = [block for block in blocks if re.search(r"^ +localrule: True$", block, re.MULTILINE)]
    assert {"probe", "measure", "peer_measure"} <= {re.match(r"rule (\w+)", block)[1] for block in measuring}
    assert len(measuring) + len(local) == len(blocks)
    assert not set(measuring) & set(local)
