"""DICOM files: those that pydicom comes with, and small ones made from arrays."""

import io
import struct
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom.data
from pydicom import Dataset, uid
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate

ROOT = Path(pydicom.data.__file__).parent / "test_files"
SHIPPED = sorted(path for path in ROOT.rglob("*") if path.is_file())
PATIENT = "Confidential^Name"
CT, REPORT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.11"


def make_header(syntax: str = uid.ExplicitVRLittleEndian, sop_class: str = CT) -> Dataset:
    """Return a dataset about a patient, without an image."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = uid.UID(syntax)
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID = uid.UID(sop_class)
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID = uid.UID("1.2.3")
    header.PatientName, header.PatientID = PATIENT, PATIENT
    header.PatientBirthDate = "19010203"
    return header


def make_dataset(
    values: np.ndarray, bits: int | None = None, syntax: str = uid.ExplicitVRLittleEndian
) -> Dataset:
    """Return an uncompressed image of integers [H,W], [N,H,W] or [H,W,3]."""
    is_color = values.shape[-1] == 3
    header = make_header(syntax)
    header.Rows, header.Columns = values.shape[-3:-1] if is_color else values.shape[-2:]
    header.SamplesPerPixel = 3 if is_color else 1
    header.PhotometricInterpretation = "RGB" if is_color else "MONOCHROME2"
    if is_color:
        header.PlanarConfiguration = 0
    elif values.ndim == 3:
        header.NumberOfFrames = len(values)
    header.BitsAllocated = 8 * values.itemsize
    header.BitsStored = bits or header.BitsAllocated
    header.HighBit = header.BitsStored - 1
    header.PixelRepresentation = int(values.dtype.kind == "i")
    order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
    header.PixelData = values.astype(values.dtype.newbyteorder(order)).tobytes()
    header["PixelData"].VR = "OB" if values.itemsize == 1 else "OW"
    return header


def compress(header: Dataset, values: np.ndarray, syntax: str) -> Dataset:
    """Return the image with its pixels compressed without loss."""
    header.file_meta.TransferSyntaxUID = uid.UID(syntax)
    frames = values if header.get("NumberOfFrames") else values[None]
    encode: Any = {
        uid.JPEGLSLossless: imagecodecs.jpegls_encode,
        uid.JPEG2000Lossless: lambda v: imagecodecs.jpeg2k_encode(
            v, codecformat="j2k", reversible=True, level=0
        ),
        uid.JPEGLosslessSV1: lambda v: imagecodecs.jpeg8_encode(
            v, lossless=True, predictor=1, bitspersample=header.BitsStored
        ),
        uid.RLELossless: pack_rle,
    }[uid.UID(syntax)]
    header.PixelData = encapsulate([encode(np.ascontiguousarray(frame)) for frame in frames])
    header["PixelData"].VR = "OB"
    return header


def pack_rle(values: np.ndarray) -> bytes:
    """Pack one frame as in PS3.5, annex G: a segment for each byte of each sample, highest first.
    Every run has one byte.
    """
    planes = np.moveaxis(values, -1, 0) if values.ndim == 3 else values[None]
    segments = []
    for plane in planes:
        octets = plane.astype(plane.dtype.newbyteorder(">")).view(np.uint8).reshape(-1, 1)
        for one in octets.reshape(-1, plane.itemsize).T:
            packed = b"".join(b"\0" + bytes([value]) for value in one.tolist())
            segments.append(packed + b"\x80" * (len(packed) % 2))
    offsets = [64 + sum(map(len, segments[:i])) for i in range(len(segments))]
    return struct.pack("<16L", len(segments), *offsets, *[0] * (15 - len(segments))) + b"".join(
        segments
    )


def encode(header: Dataset) -> bytes:
    file = io.BytesIO()
    header.save_as(file, enforce_file_format=True)
    return file.getvalue()
