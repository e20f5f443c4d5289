"""Writes python.gguf with the package gguf (0.19.0): every value type, several tensor types."""

import gguf
import numpy as np

w = gguf.GGUFWriter("python.gguf", "test")
w.add_uint8("a.u8", 200)
w.add_int8("a.i8", -100)
w.add_uint16("a.u16", 60000)
w.add_int16("a.i16", -30000)
w.add_uint32("a.u32", 4000000000)
w.add_int32("a.i32", -2000000000)
w.add_uint64("a.u64", 2**63)
w.add_int64("a.i64", -(2**62))
w.add_float32("a.f32", 0.1)
w.add_float64("a.f64", 1e-6)
w.add_bool("a.bool", True)
w.add_string("a.str", "mañana 毕")
w.add_array("b.i32", [1, -2, 3])
w.add_array("b.f32", [0.5, 1.5])
w.add_array("b.bool", [True, False])
w.add_array("b.str", ["", "a", "héllo"])
x = np.arange(512, dtype=np.float32).reshape(2, 256) / 256 - 1
w.add_tensor("plain.f32", x)
w.add_tensor("plain.f16", x[:, :6].astype(np.float16))
w.add_tensor("plain.i32", np.arange(5, dtype=np.int32))
for name, ty in (("q8_0", gguf.GGMLQuantizationType.Q8_0), ("mxfp4", gguf.GGMLQuantizationType.MXFP4)):
    w.add_tensor(name, gguf.quants.quantize(x, ty), raw_dtype=ty)
w.add_tensor("last", np.ones((2, 3, 1, 5), np.float32))
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()
