"""What holds for every test: how long an example may take says nothing, since the machine is shared."""

from hypothesis import settings

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
