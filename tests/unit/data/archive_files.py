"""Archives of one small folder as packers write it, and archives that are not to be unpacked."""

import gzip
import os
import stat
import struct
import tarfile
import unicodedata
import zipfile
from collections.abc import Iterable
from io import BytesIO

FILES = {"set/a.jpg": b"picture", "set/a.txt": b"caption", "set/below/b.jpg": b"other"}

SPREAD = 4096  # bytes of an entry that reaches beyond what a reader holds ready


def zipped(files: Iterable[tuple[str | zipfile.ZipInfo, bytes]], method: int = 8) -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return file.getvalue()


def tarred(members: Iterable[tuple[str | tarfile.TarInfo, bytes]]) -> bytes:
    file = BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name) if isinstance(name, str) else name
            member.size = len(data)
            archive.addfile(member, BytesIO(data))
    return file.getvalue()


def special(kind: bytes, name: str = "x", target: str = "/etc/passwd") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def with_mode(mode: int, name: str = "x") -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = 3  # Unix
    info.external_attr = mode << 16
    return info


def patched(data: bytes, *changes: tuple[bytes, int, bytes]) -> bytes:
    """After each place that begins with a mark, some bytes further, others written."""
    changed = bytearray(data)
    for mark, offset, new in changes:
        place = data.index(mark) + offset
        changed[place : place + len(new)] = new
    return bytes(changed)


LOCAL, CENTRAL = b"PK\x03\x04", b"PK\x01\x02"  # APPNOTE.TXT, 4.3.7 and 4.3.12


def encrypted() -> bytes:
    data = zipped([("a.jpg", b"picture")])
    return patched(data, (LOCAL, 6, b"\x01"), (CENTRAL, 8, b"\x01"))


def of_claimed_size(num_bytes: int) -> bytes:
    size = struct.pack("<I", num_bytes)
    return patched(zipped([("a.jpg", bytes(1000))]), (LOCAL, 22, size), (CENTRAL, 24, size))


def named_with_zero() -> bytes:
    return zipped([("a.jpgX.txt", b"")]).replace(b"a.jpgX.txt", b"a.jpg\0.txt")


def damaged_tar() -> bytes:
    """The second header is wrong; tarfile takes that for the end of the archive."""
    return patched(tarred([("a.jpg", b"x"), ("b.jpg", b"x"), ("c.jpg", b"x")]), (b"b.jpg", 0, b"?"))


def long_header() -> bytes:
    """A header of a megabyte and more for the name of one file (pax)."""
    file = BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("a.jpg")
        member.pax_headers = {"comment": "x" * 2_000_000}
        archive.addfile(member)
    return gzip.compress(file.getvalue())


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


STORED = zipped(FILES.items(), method=0)
TAR = tarred(FILES.items())
WIDE = gzip.compress(tarred([("a.jpg", os.urandom(SPREAD)), ("b.jpg", os.urandom(SPREAD))]))

REFUSED: dict[str, tuple[bytes, str]] = {
    "slip.zip": (zipped([("../out.txt", b"")]), "../out.txt leads out of the archive by '..'"),
    "slip_deep.zip": (zipped([("a/../../out.txt", b"")]), "a/../../out.txt leads out"),
    "slip_windows.zip": (zipped([("..\\out.txt", b"")]), "..\\out.txt leads out"),
    "slip.tar": (tarred([("../out.txt", b"")]), "../out.txt leads out"),
    "absolute.zip": (zipped([("/out.txt", b"")]), "/out.txt is an absolute name"),
    "absolute.tar": (tarred([("/out.txt", b"")]), "/out.txt is an absolute name"),
    "share.zip": (zipped([("\\\\host\\out.txt", b"")]), "is an absolute name"),
    "drive.zip": (zipped([("C:/out.txt", b"")]), "C:/out.txt is an absolute name"),
    "drive_relative.tar": (tarred([("c:out.txt", b"")]), "c:out.txt is an absolute name"),
    "zero.zip": (named_with_zero(), r"'a.jpg\x00.txt' cannot be the name of a file here"),
    "nameless.tar": (tarred([("./", b"x")]), "is no valid file name"),
    "link.zip": (zipped([(with_mode(stat.S_IFLNK | 0o777), b"/etc/passwd")]), "x is a link"),
    "link.tar": (tarred([(special(tarfile.SYMTYPE), b"")]), "x is a link"),
    "hard_link.tar": (tarred([(special(tarfile.LNKTYPE), b"")]), "x is a link"),
    "link.tar.gz": (gzip.compress(tarred([(special(tarfile.SYMTYPE), b"")])), "x is a link"),
    "device.zip": (zipped([(with_mode(stat.S_IFBLK), b"")]), "x is a device, a pipe"),
    "device.tar": (tarred([(special(tarfile.CHRTYPE), b"")]), "x is a device, a pipe"),
    "pipe.tar": (tarred([(special(tarfile.FIFOTYPE), b"")]), "x is a device, a pipe"),
    "twice.tar": (tarred([("a", b""), ("a", b"")]), "a has the same path as a on"),
    "twice_by_dot.tar": (tarred([("a", b""), ("./a", b"")]), "./a has the same path as a on"),
    "twice_by_case.zip": (
        zipped([("b/A.jpg", b""), ("b/a.JPG", b"")]),
        "b/a.JPG has the same path as",
    ),
    "twice_by_accent.zip": (
        zipped([(unicodedata.normalize(form, "é.jpg"), b"") for form in ("NFC", "NFD")]),
        "has the same path as é.jpg on",
    ),
    "file_as_folder.tar": (
        tarred([("a", b""), ("a/b.jpg", b"")]),
        "a/b.jpg has the same path as a on",
    ),
    "folder_as_file.tar": (tarred([("A/b", b""), ("a", b"")]), "a has the same path as A/b on"),
    "encrypted.zip": (encrypted(), "a.jpg is encrypted; pack it without a password"),
    "method.zip": (zipped([("a.jpg", b"x")], method=12), "a.jpg is packed by method 12"),
    "empty.zip": (zipped([]), "holds no files"),
    "empty.tar": (tarred([]), "holds no files"),
    "folders.zip": (zipped([("a/", b"")]), "holds no files"),
    "nothing.zip": (b"", "is no .zip, .tar or .tar.gz archive"),
    "text.tar": (b"a caption", "is no .zip, .tar or .tar.gz archive"),
    "text.tar.gz": (gzip.compress(b"a caption" * 100), "is no .zip, .tar or .tar.gz archive"),
    "cut.zip": (STORED[:-40], "is damaged"),
    "cut.tar": (TAR[:1000], "is damaged"),
    "cut_between_files.tar": (TAR[:1024], "is damaged"),
    "cut.tar.gz": (WIDE[:-100], "is damaged"),
    "altered.zip": (STORED.replace(b"picture", b"Picture"), "is damaged (Bad CRC-32"),
    "altered.tar": (damaged_tar(), "is damaged (bad checksum"),
    "altered.tar.gz": (flipped(WIDE, len(WIDE) - 6), "is damaged (CRC check failed"),
    "long_header.tar.gz": (long_header(), "has an entry of impossible length"),
    "two.tar": (TAR + TAR, "continues after its end"),
    "claims_more.zip": (of_claimed_size(2000), "is damaged"),
    "claims_less.zip": (of_claimed_size(10), "is damaged"),
    "bomb.zip": (zipped([("zeros", bytes(90_000))]), "unpacks, with zeros, to more than 10 times"),
    "bomb.tar.gz": (gzip.compress(tarred([("zeros", bytes(90_000))])), "more than 10 times"),
    "many_small.zip": (
        zipped([(f"{i}", bytes(9000)) for i in range(9)]),
        "to more than 10 times its own size, as a bomb does; if you trust it, unpack it by hand",
    ),
    "large.tar": (tarred([("a.bin", bytes(60_000)), ("b.bin", bytes(60_000))]), "100000 bytes"),
    "claims_large.zip": (of_claimed_size(4_000_000_000), "unpacks, with a.jpg, to more than"),
    "crowded.zip": (zipped([(f"{i}", b"") for i in range(11)]), "holds more than 10 files"),
}
"""By name: the bytes, and what the message says, under limits of 10 entries, 100,000 bytes and 10
times the archive beyond 20,000 bytes."""

PACKED: dict[str, bytes] = {
    "set.zip": zipped(FILES.items()),
    "set.ZIP": STORED,
    "set.tar": TAR,
    "set.tar.gz": gzip.compress(TAR),
    "set.tgz": gzip.compress(TAR),
    "zip named.tar": zipped(FILES.items()),
    "tar named.zip": TAR,
    "with folders.zip": zipped([("set/", b""), ("set/below/", b""), *FILES.items()]),
    "by Windows.zip": zipped((name.replace("/", "\\"), FILES[name]) for name in FILES),
    "with dots.tar": tarred(
        [(special(tarfile.DIRTYPE, "./"), b""), *((f"./{name}", FILES[name]) for name in FILES)]
    ),
    "by macOS.zip": zipped(
        [*FILES.items(), ("__MACOSX/set/._a.jpg", b"about it"), (".DS_Store", b"about it")]
    ),
}
"""Of ``FILES``, by name; the ending is not always that of the content."""
