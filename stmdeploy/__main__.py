"""``python -m stmdeploy``."""

from stmdeploy.cli.main import run

run()
