"""The backbone while it learns."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from splitrail.models.resnet import ResNet

_LEARN = """
import torch
from splitrail.models.resnet import ResNet
torch.set_num_threads(1)
shortcut = ResNet(18, width={width}).layer2[0].downsample[0].to(memory_format=torch.channels_last)
for _ in range(30):
    shortcut(torch.randn(16, {width}, 48, 64).to(memory_format=torch.channels_last)).square().sum().backward()
print("alive")
"""


@pytest.mark.parametrize("width", [4, 8])
def test_a_very_narrow_one_learns_without_breaking_the_process(width):
    # A process of its own: where memory is overwritten, this one must not be the victim.
    done = subprocess.run(
        [sys.executable, "-c", _LEARN.format(width=width)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "alive"), done.stderr


def test_a_strided_shortcut_gives_the_same_while_it_learns():
    torch.manual_seed(0)
    shortcut = ResNet(18, width=16).layer2[0].downsample[0]
    x = torch.randn(2, 16, 13, 18)
    learning = shortcut(x)
    expected = F.conv2d(x, shortcut.weight, stride=2)
    torch.testing.assert_close(learning, expected)
    with torch.no_grad():
        torch.testing.assert_close(shortcut(x), expected)
    (ours,) = torch.autograd.grad(learning.square().sum(), shortcut.weight)
    (theirs,) = torch.autograd.grad(expected.square().sum(), shortcut.weight)
    torch.testing.assert_close(ours, theirs)
