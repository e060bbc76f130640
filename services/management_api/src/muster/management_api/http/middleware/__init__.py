"""The ASGI middleware of the API. Each module contains one middleware class, through which every request passes."""
