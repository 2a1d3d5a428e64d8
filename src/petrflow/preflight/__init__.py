"""What can be known before the first job: mistakes in what a person wrote, and whether the machine
is fit for it.
"""
