"""The toolbox: processes and files inside a sandbox, below `/toolbox/{sandbox id}`."""
