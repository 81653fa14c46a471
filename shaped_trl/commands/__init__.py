"""The commands of `shaped-trl`. Each one imports its stage when it is called."""
