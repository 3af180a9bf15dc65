"""What a user can do about state that stays on the device, by the reason why it stays.

The scanner and the residency say the reasons. This file knows none of their work, only what a user can change.
"""

_LET_GO = "drop that reference, or keep a clone() in its place"

_REMEDIES = {
    "the caller holds it": "make it inside the program that you start, or open(adopt=[...]) the cache that holds it",
    "numpy, DLPack or shared memory holds its bytes": "keep a clone() there in its place",
    "gradients are on: autograd may need it": "start the program under torch.no_grad()",
    "a tensor outside the session, or C or C++ code, uses its storage": _LET_GO,
    "somebody outside the session holds its storage": _LET_GO,
    "somebody outside the session holds it": _LET_GO,
    "C or C++ code holds it": _LET_GO,
    "a thread that is being traced may hold it": "pause without a debugger or a coverage tool, or on Python 3.13",
    "somebody has got hold of it since the pause": "clone() what you keep between the pause and io_wait()",
    "it could not be emptied": "drop what numpy or DLPack made of it",
    "it lies in the pool of a CUDA graph": "keep a clone() of what the graph returned",
    "a CUDA graph of the program may read it": "record the graph outside of the program that you start",
    "a CUDA graph has overwritten it": "clone() what the graph returned before it runs again",
    "the model holds it": "return a clone() of it from the layer",
    "it is sparse": "keep it dense where it should leave",
    "it is quantized": "keep it dequantized where it should leave",
    "it is a nested tensor": "pad it where it should leave",
    "it belongs to a transform of torch.func": "pause outside of the transform",
    "it is a tensor of the subclass": "keep a plain tensor where it should leave",
    "looking for the state failed": "please report the model and the error",
}


def remedy(reason: str) -> str:
    """Return what a user can do so that it leaves next time; an empty string if nothing is known."""
    return next((action for start, action in _REMEDIES.items() if reason.startswith(start)), "")
