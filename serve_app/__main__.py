"""``python -m serve_app``."""

import signal

if __name__ == "__main__":
    # While modules are imported, Ctrl-C ends the program without a stack trace; then the commands decide.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from serve_app.cli.main import main

    main()
