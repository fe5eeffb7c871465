"""`python -m wlsweep` is `wlsweep`."""

from wlsweep.cli import main

main()
