"""`python -m sailctl` is `sailctl`."""

from sailctl.cli import main

main()
