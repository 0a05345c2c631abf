"""``python -m mien`` is the ``mien`` command."""

from mien.cli import main

main()
