"""`python -m sailctl` is `sailctl`. Ctrl-C while the command line is still being loaded ends it like any later one."""

import os


def main() -> None:
    """The console script."""
    try:
        from sailctl.cli import main as run
    except KeyboardInterrupt:
        os._exit(130)
    run()


if __name__ == "__main__":
    main()
