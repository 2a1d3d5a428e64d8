"""Files from the network, and archives: fetched with resume and checksums, extracted safely.

For the stages and for the doors in ``petrflow.sources``. A file appears under its final name only
when it is whole. Nothing here runs code of what it fetched, writes outside the folder it was given,
or shows the secret part of a link. Links as text are in :mod:`petrflow.fetch.links`.
"""
