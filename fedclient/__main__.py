"""`python -m fedclient` is `fedclient`."""

from __future__ import annotations

from fedclient.cli.main import main

raise SystemExit(main())
