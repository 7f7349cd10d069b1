"""exchange: the files of hnswlib and FAISS, written and read without either library.

    contents.py   what goes into a foreign file: rows, ids, an HNSW hierarchy     hnswlib.py   hnswlib's layout
    source.py     a foreign file that is read, hostile until proven otherwise     faiss.py     FAISS's layout
"""

from .faiss import read_faiss, write_faiss
from .hnswlib import read_hnswlib, write_hnswlib

__all__ = ["read_faiss", "read_hnswlib", "write_faiss", "write_hnswlib"]
