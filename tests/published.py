"""The authors' runs as the checkout has them, so that no test is tied to the name of one."""

from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PUBLISHED = sorted(path.parent.name for path in (ROOT / "results" / "published").glob("*/machine.json"))
DRAWN = tuple(yaml.safe_load((ROOT / "config.yaml").read_text())["paper_runs"])  # the first leads
LEADING = DRAWN[0]
