"""`python -m cli` is `sentinode`."""

from cli import main

main()
