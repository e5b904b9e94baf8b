import torch
from torch.nn import functional

from reelscan.models.alignment_decoder import AlignmentDecoder


def test_positions_are_added_and_the_output_is_normalised():
    torch.manual_seed(0)
    decoder = AlignmentDecoder(6, 4)
    features, positions = torch.randn(2, 3, 6), torch.randn(1, 3, 6)
    expected = functional.layer_norm(decoder.head(features + positions), (4,))
    torch.testing.assert_close(decoder(features, positions), expected)
    assert not torch.allclose(decoder(features, positions), decoder(features, 0 * positions))
