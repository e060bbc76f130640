"""The provider `daytona`, whose sandboxes are made by a Daytona server. Only this package imports Daytona's SDK."""
