"""Parts of ids that another module defines."""

from typing import Final

PREFIX: Final = "user."
CHOSEN: Final = "user.chosen_elsewhere"
