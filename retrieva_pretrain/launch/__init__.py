"""Starting the processes of a run. Knows commands and processes, nothing of tensors."""
