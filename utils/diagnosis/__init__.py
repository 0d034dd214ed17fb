"""The checks behind ``python -m utils.doctor``: what would stop or spoil a run, found before it starts.

A check is a function ``(Inputs) -> iterator of Finding``. It may raise: what the files of a user can do wrong
(OSError, ValueError) becomes an error finding, and so does anything unexpected; the other checks go on.
"""
