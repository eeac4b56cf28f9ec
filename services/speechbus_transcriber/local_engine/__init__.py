"""The local speech engine: PocketSphinx in a process of the worker, with a child per session.

The worker starts `python -m speechbus_transcriber.local_engine` and speaks to it over a Unix socket
in the words of `speechbus_transcriber.providers.local_wire`.
"""
