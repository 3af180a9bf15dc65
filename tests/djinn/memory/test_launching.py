"""How a kernel is launched: its parameters are packed as the driver says they lie, or it is refused."""

import ctypes
import struct
from types import SimpleNamespace

import pytest

from djinn.memory import launching
from djinn.memory.copying import CudaRuntimeError
from djinn.memory.launching import Launch

ADDRESS = 0x7F00_0000_1230
ARGUMENTS = (ADDRESS, 4096, 121, ADDRESS + 16)
LAYOUT = [(0, 8), (8, 4), (12, 4), (16, 8)]
SCRATCH = [(24, 8), (32, 8)]
NEEDS = {"num_warps": 8, "shared": 512, "num_ctas": 1, "global_scratch_size": 0, "profile_scratch_size": 0, "name": "k"}


@pytest.fixture
def driver(monkeypatch):
    """A driver that says ``layout``, answers ``code`` to launches, and notes them."""
    driver = SimpleNamespace(layout=LAYOUT + SCRATCH, code=0, launched=[])

    def param_info(function, index, offset, nbytes):
        if index >= len(driver.layout):
            return 1
        offset._obj.value, nbytes._obj.value = driver.layout[index]
        return 0

    def launch(*args):
        words = (ctypes.c_size_t * 5).from_address(args[-1])
        size = ctypes.c_size_t.from_address(words[3]).value
        assert (words[0], words[2], words[4]) == (1, 2, 0)
        driver.launched.append((args[:-1], ctypes.string_at(words[1], size)))
        return driver.code

    driver.cuFuncGetParamInfo, driver.cuLaunchKernel = param_info, launch
    monkeypatch.setattr(launching, "_driver", lambda: driver)
    return driver


def kernel(**needs):
    return SimpleNamespace(function=77, metadata=SimpleNamespace(**{**NEEDS, **needs}))


@pytest.mark.parametrize("scratch", [[], SCRATCH])
def test_parameters_are_packed_as_the_kernel_has_them(driver, scratch):
    """What fits into 32 bits has those, addresses have 64; Triton's scratch memory is none."""
    driver.layout = LAYOUT + scratch
    launch = Launch(kernel(), ARGUMENTS)
    launch((5, 2), 99, *ARGUMENTS)
    ((told, packed),) = driver.launched
    assert told == (77, 5, 2, 1, 256, 1, 1, 512, 99, None)
    assert packed == struct.pack("<qiiq", *ARGUMENTS) + bytes(8 * len(scratch))


@pytest.mark.parametrize(
    "layout",
    [LAYOUT[:-1], [(0, 8), (8, 8), (16, 4), (24, 8)], [*LAYOUT, (24, 4)], []],
    ids=["fewer", "wider", "narrow scratch", "none"],
)
def test_parameters_that_lie_elsewhere_are_refused(driver, layout):
    """Else the kernel would read what is not there."""
    driver.layout = layout
    with pytest.raises(RuntimeError, match="k has parameters that are not known here"):
        Launch(kernel(), ARGUMENTS)
    assert driver.launched == []


@pytest.mark.parametrize("needs", [{"num_ctas": 2}, {"global_scratch_size": 8}, {"profile_scratch_size": 8}])
def test_a_kernel_that_needs_more_is_refused(driver, needs):
    with pytest.raises(RuntimeError, match="k has parameters that are not known here"):
        Launch(kernel(**needs), ARGUMENTS)


def test_what_the_driver_refuses_is_raised(driver):
    driver.code = 700
    with pytest.raises(CudaRuntimeError, match="cuLaunchKernel failed: CUresult 700"):
        Launch(kernel(), ARGUMENTS)((1, 1), 0, *ARGUMENTS)


def test_addresses_and_handles_are_passed_whole(monkeypatch):
    """Without types a number beyond 32 bits would be cut."""
    library = SimpleNamespace(**{name: SimpleNamespace() for name in launching._ARGUMENTS})
    monkeypatch.setattr(ctypes, "PyDLL", lambda name: library if name == "libcuda.so.1" else None)
    assert launching._driver.__wrapped__() is library
    wide = ctypes.sizeof(ctypes.c_void_p)
    for name, count in {"cuFuncGetParamInfo": 4, "cuLaunchKernel": 4}.items():
        function = getattr(library, name)
        assert sum(ctypes.sizeof(one) == wide for one in function.argtypes) == count, name
        assert function.restype is ctypes.c_int
