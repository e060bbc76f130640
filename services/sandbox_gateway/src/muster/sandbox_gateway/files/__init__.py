"""Files of workspaces, output of workers, and the record of the workspace, for operators."""
