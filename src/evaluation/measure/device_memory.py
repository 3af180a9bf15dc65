"""Counts the device memory in use, and overwrites what was freed.

A method that never moved its state could find it again in memory that nobody has reused. So while a session is paused
every byte that torch's allocator holds free is overwritten, without asking the method where its state was.
"""

from collections.abc import Iterable, Sequence

import torch

_LEFT_FREE = 1 << 30  # bytes of device memory that the driver may want for itself
_SMALL = 1 << 20  # torch serves requests up to 1 MiB from a pool of their own
_COMMON_POOL = (0, 0)  # from which torch serves everybody who does not bring a pool of his own


def synchronize(device: torch.device) -> None:
    """Wait for all work on ``device``; nothing to do on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether ``error`` says that the device has no memory left, in torch's words or in those of CUDA's libraries."""
    return isinstance(error, torch.OutOfMemoryError) or "ALLOC_FAILED" in str(error)


def allocated_bytes(device: torch.device) -> int | None:
    """Bytes in use by tensors on a GPU; None on the CPU, where torch keeps no count.

    The workspaces that torch keeps for matrix products are given back first: some methods do so with theirs (32 MiB).
    """
    if device.type != "cuda":
        return None
    torch._C._cuda_clearCublasWorkspaces()
    return torch.cuda.memory_allocated(device)


def overwrite_free_memory(device: torch.device, freed: Sequence[int], streams: Sequence[torch.cuda.Stream] = ()) -> int:
    """Fill free memory with 0xFF bytes (NaN in every float format) and return how many were filled.

    On a GPU that is all memory that torch's caching allocator holds free for the current stream and for ``streams``, on
    which a method allocates its state. What a library's own pool holds free is left alone. No request from here is
    served from it: the driver would give the same number of bytes instead, at every call anew. On the CPU freed memory
    goes back to the system or into its heap. There blocks of the sizes ``freed`` are taken, filled and given back.
    Raises ``RuntimeError`` if less was overwritten on a GPU than ``freed`` says was given up.
    """
    if device.type != "cuda":
        filled = [torch.full((nbytes,), 0xFF, dtype=torch.uint8) for nbytes in freed]
        return sum(block.numel() for block in filled)
    overwritten = _overwrite_of_stream(device)
    if overwritten < sum(freed):
        used = torch.cuda.memory_allocated(device)
        raise RuntimeError(f"only {overwritten} of {sum(freed)} freed bytes could be overwritten; {used} are in use")
    for stream in streams:
        with torch.cuda.stream(stream):
            overwritten += _overwrite_of_stream(device)
    return overwritten


def _overwrite_of_stream(device: torch.device) -> int:
    """Fill what is free for the current stream, and return how many bytes that were."""
    taken: list[torch.Tensor] = []
    for _ in range(3):  # a block may be served from another free one of its size: ask again for what is left
        sizes = _free_blocks(device)
        if not sizes:
            break
        taken += [torch.empty(size, dtype=torch.uint8, device=device).fill_(0xFF) for size in sizes]
    torch.cuda.synchronize(device)
    return sum(block.numel() for block in taken)


def overwrite_tensors(tensors: Iterable[torch.Tensor]) -> int:
    """Fill the storages of ``tensors``, each once, with 0xFF bytes, and return how many were filled."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors}
    for storage in storages.values():
        torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage).fill_(0xFF)
    return sum(storage.nbytes() for storage in storages.values())


def overwrite_driver_memory(device: torch.device) -> None:
    """Fill with 0xFF what the driver holds free on a GPU, but for ``_LEFT_FREE``, and give it back.

    What a process gives back to the driver may come again as it was. For untimed samples only: the driver clears what
    it gets, and whoever asks it for memory meanwhile waits. An H100 took 32 ms to map 1.6 GiB and copy into them. With
    52 GiB filled 25 ms before it took 66 ms, and half a second later still 46. On the CPU nothing is filled. Raises
    ``RuntimeError`` if torch keeps what it was to give back: whoever resumes next would find no room.
    """
    if device.type != "cuda":
        return
    nbytes = torch.cuda.mem_get_info(device)[0] - _LEFT_FREE
    if nbytes <= 0:
        return
    pool = torch.cuda.MemPool()  # of its own: to empty torch's would cost whoever is timed next
    with torch.cuda.use_mem_pool(pool, device):
        block = torch.empty(nbytes, dtype=torch.uint8, device=device).fill_(0xFF)
    torch.cuda.synchronize(device)
    del block, pool  # in this order, which gives the memory back to the driver
    if torch.cuda.mem_get_info(device)[0] < nbytes:
        raise RuntimeError(f"the {nbytes} bytes of device memory that were filled did not go back to the driver")


def _free_blocks(device: torch.device) -> list[int]:
    sizes: list[int] = []
    stream = torch.cuda.current_stream(device).cuda_stream
    for segment in torch.cuda.memory_snapshot():
        served_from = (segment["device"], segment["stream"], tuple(segment["segment_pool_id"]))
        if served_from == (device.index, stream, _COMMON_POOL):
            for block in segment["blocks"]:
                if block["state"] == "inactive":
                    step = _SMALL if segment["segment_type"] == "small" else block["size"]
                    sizes += [min(step, block["size"] - start) for start in range(0, block["size"], step)]
    return sorted(sizes, reverse=True)
