"""Parameters as files: read without running code from them, compared with a network,
loaded, written.

For the stages, training, export and preflight. Nothing here executes what a weights file asks for:
a file is read as numbers, or refused. ``fit``, ``pdparams`` and ``plain_pickle`` must not import
Paddle, so that preflight can use them; only ``load`` does.
"""
