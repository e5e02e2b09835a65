"""The Python API: what the command line does, as functions and objects for programs and notebooks.

`import labeler` has all of it. Nothing here prints or takes signals unless asked: messages go to Python's logger
`labeler`. Whatever is wrong is a `LabelerError`: `Refused` before anything is written, `Incomplete` if a job can be
resumed by the same call, `StorageError` if storage fails for good.
"""

import logging

logging.getLogger("labeler").addHandler(logging.NullHandler())  # a library prints nothing by itself; commands do
