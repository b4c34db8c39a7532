"""`python -m inscape` is `inscape`."""

from inscape.cli.main import main

raise SystemExit(main())
