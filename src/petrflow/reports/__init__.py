"""What people look at: the page over all runs, the viewer of boxes, the demo, the training curves.

For ``petrflow.stages`` and the command line (``python -m petrflow.reports.curves``); nothing below
imports it. It reads finished results and never computes a figure anew that a stage wrote, and it
never changes a result.
"""
