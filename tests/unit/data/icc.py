"""Colour profiles written by hand, and what their colours are in sRGB by published formulas."""

import struct

import numpy as np

# Colorants under D50 as published: Adobe RGB (1998) specification, the ICC's profile of sRGB,
# Apple's of Display P3.
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141))
DISPLAY_P3 = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))
D50 = (0.9642, 1.0, 0.8249)

# XYZ under D50 -> linear sRGB (Lindbloom, brucelindbloom.com: sRGB, adapted by Bradford)
SRGB_FROM_D50 = np.array(
    [
        (3.1338561, -1.6168667, -0.4906146),
        (-0.9787684, 1.9161415, 0.0334540),
        (0.0719453, -0.2289914, 1.4052427),
    ]
)


def adobe_rgb() -> bytes:
    """Adobe RGB (1998), 4.3.4.2: gamma 563/256."""
    return _rgb(ADOBE_RGB, _gamma(563 / 256))


def display_p3() -> bytes:
    """Display P3: the curve is that of sRGB."""
    return _rgb(DISPLAY_P3, _srgb_curve())


def srgb() -> bytes:
    """sRGB, under another name."""
    return _rgb(SRGB, _srgb_curve())


def _srgb_curve() -> bytes:
    """IEC 61966-2-1, as a table."""
    values = np.linspace(0, 1, 1024)
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    points = np.rint(linear * 65_535).astype(">u2").tobytes()
    return b"curv\0\0\0\0" + struct.pack(">I", len(values)) + points


def linear_grey() -> bytes:
    """Grey whose values are proportional to the light."""
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": _gamma(1)})


def cmyk(lab_of_cyan: tuple[int, int, int]) -> bytes:
    """Paper white without ink, one Lab colour at full cyan, black where other inks join it."""
    table = [(100, 0, 0)] + [(0, 0, 0)] * 15
    table[8] = lab_of_cyan  # the first channel changes slowest
    points = b"".join(bytes((round(L * 2.55), a + 128, b + 128)) for L, a, b in table)
    unit = struct.pack(">9i", *(65_536 * (place % 4 == 0) for place in range(9)))
    straight = bytes(range(256))
    lookup = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + unit + straight * 4 + points + straight * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": lookup})


def from_adobe_rgb(colour: tuple[int, int, int]) -> np.ndarray:
    """Adobe RGB, 0..255 -> sRGB, 0..255."""
    linear = (np.array(colour) / 255) ** (563 / 256)
    return _encoded(SRGB_FROM_D50 @ np.array(ADOBE_RGB).T @ linear)


def from_lab(lab: tuple[float, float, float]) -> np.ndarray:
    """Lab under D50 (CIE 15) -> sRGB, 0..255."""
    lightness, a, b = lab
    y = (lightness + 16) / 116
    parts = np.array([y + a / 500, y, y - b / 200])
    cubed = np.where(parts > 6 / 29, parts**3, 3 * (6 / 29) ** 2 * (parts - 4 / 29))
    return _encoded(SRGB_FROM_D50 @ (cubed * D50))


def from_linear(value: float) -> float:
    """Light, 0..255 -> a channel of sRGB, 0..255."""
    return float(_encoded(np.array(value / 255)))


def _encoded(linear: np.ndarray) -> np.ndarray:
    """Linear sRGB -> 0..255 (IEC 61966-2-1)."""
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _rgb(colorants: tuple[tuple[float, float, float], ...], curve: bytes) -> bytes:
    tags = {bytes([c]) + b"XYZ": _xyz(each) for c, each in zip(b"rgb", colorants, strict=True)}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags)


def _profile(kind: bytes, space: bytes, pcs: bytes, own: dict[bytes, bytes]) -> bytes:
    """A version 2 profile (ICC.1:2001-04, section 6)."""
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 2) + b"x\0" + bytes(78),
        b"cprt": b"text\0\0\0\0x\0",
        b"wtpt": _xyz(D50),
    } | own
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = struct.pack(">I", start + len(body))
    head = size + bytes(4) + b"\x02\x40\0\0" + kind + space + pcs + bytes(12) + b"acsp" + bytes(28)
    head += _xyz(D50)[8:] + bytes(48)
    return head + struct.pack(">I", len(tags)) + table + body


def _xyz(value: tuple[float, float, float]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(each * 65_536) for each in value))


def _gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256))
