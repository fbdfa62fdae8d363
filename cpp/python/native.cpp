// The Python module segnets_native: segnets::Model for NumPy, without importing torch.
// Neither pixels nor masks are copied, and calls release the GIL.
#include <pybind11/gil_safe_call_once.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "memory.h"
#include "segnets/model.h"

namespace py = pybind11;

namespace {

using segnets::Error;
using segnets::ImageView;

// ---- errors ----

PYBIND11_CONSTINIT py::gil_safe_call_once_and_store<py::object> plain_error, joined_error;

// Make a class derived from Error and segnets.errors.SegnetsError. It is pickled as an Error, which every process has.
py::object join_errors(const py::object& segnets_error) {
  const py::object base = plain_error.get_stored();
  const py::dict members;
  members["__module__"] = "segnets_native";
  members["__doc__"] = base.attr("__doc__");
  members["__reduce__"] = py::cpp_function(
      [base = py::object(base)](const py::object& self) { return py::make_tuple(base, self.attr("args")); },
      py::is_method(py::none()));
  return py::type::of(base)("Error", py::make_tuple(base, segnets_error), members);
}

// A program that imported segnets can catch SegnetsError; other programs need not import segnets, and so torch.
py::object error_type() {
  const py::dict modules = py::module_::import("sys").attr("modules");
  if (!modules.contains("segnets.errors")) return plain_error.get_stored();
  const py::object known = modules["segnets.errors"];
  if (!py::hasattr(known, "SegnetsError")) return plain_error.get_stored();  // still being imported
  return joined_error.call_once_and_store_result([&] { return join_errors(known.attr("SegnetsError")); }).get_stored();
}

void translate(std::exception_ptr pointer) {
  try {
    std::rethrow_exception(std::move(pointer));
  } catch (const Error& error) {
    // Names and contents of files may hold bytes that are not UTF-8.
    const auto size = static_cast<Py_ssize_t>(std::strlen(error.what()));
    const auto text = py::reinterpret_steal<py::object>(PyUnicode_DecodeUTF8(error.what(), size, "replace"));
    PyErr_SetObject(error_type().ptr(), text.ptr());
  }
}

// ---- images in ----

std::string text_of(const py::handle& object) { return py::str(object); }

struct Input {
  std::vector<ImageView> images;
  bool batch = false;  // (N, H, W, C), else (H, W, C)
  py::array owner;     // of the pixels
};

py::array checked_array(const py::object& object, std::int64_t channels) {
  if (!py::isinstance<py::array>(object))
    throw Error("image: expected a NumPy array, got " + text_of(py::type::of(object).attr("__name__")) +
                "; numpy.asarray(...) makes one of most things");
  auto array = py::reinterpret_borrow<py::array>(object);
  const std::string shape = text_of(array.attr("shape"));
  if (!py::isinstance<py::array_t<std::uint8_t>>(array))
    throw Error("image: is " + text_of(array.dtype()) + ", expected uint8, 0..255");
  if (channels == 1 && array.ndim() == 2) array = array.attr("__getitem__")(py::make_tuple(py::ellipsis(), py::none()));
  const auto axes = array.ndim();
  const std::string last = std::to_string(channels);
  const std::string expected = std::string(", expected ") + (channels == 1 ? "(H, W), " : "") + "(H, W, " + last +
                               ") or (N, H, W, " + last + ")";
  if (axes != 3 && axes != 4) throw Error("image: has shape " + shape + expected);
  if (array.shape(axes - 1) != channels)
    throw Error(
        "image: has shape " + shape + expected +
        (array.shape(axes - 3) == channels ? "; numpy.moveaxis(image, -3, -1) brings the channels to the end" : ""));
  if (array.size() == 0) throw Error("image: has shape " + shape + ", which holds no pixels");
  return array;
}

// Fill in the layout of one image of `array`. Return false if it needs a copy: rows or pixels that run backwards,
// repeat or overlap. Reversed channels are BGR.
bool describe(const py::array& array, ImageView& image, std::int64_t channels) {
  const auto axes = array.ndim();
  image.data = static_cast<const std::uint8_t*>(array.data());
  image.height = array.shape(axes - 3);
  image.width = array.shape(axes - 2);
  image.row_stride = array.strides(axes - 3);
  image.pixel_stride = array.strides(axes - 2);
  image.channel_stride = array.strides(axes - 1);
  image.channels = channels;
  image.order = segnets::ChannelOrder::rgb;
  if (channels == 1) image.channel_stride = 1;  // the stride of a single element may be anything in NumPy
  if (image.channel_stride < 0) {
    if (channels != 3) return false;
    image.data += 2 * image.channel_stride;
    image.channel_stride = -image.channel_stride;
    image.order = segnets::ChannelOrder::bgr;
  }
  if (image.width == 1) image.pixel_stride = 1;  // likewise
  const bool interleaved = image.channel_stride <= image.pixel_stride;
  const std::int64_t span =
      (image.width - 1) * image.pixel_stride + (interleaved ? (channels - 1) * image.channel_stride : 0) + 1;
  if (image.height == 1) image.row_stride = span;
  return image.pixel_stride > 0 && image.channel_stride > 0 && image.row_stride >= span;
}

// Return whether this many bytes are available. NumPy would allocate them, and the system might kill the process.
bool fits(std::int64_t bytes) {
  if (bytes < std::int64_t{1} << 30) return true;  // not worth reading the system's files
  return bytes <= segnets::available_memory().value_or(bytes);
}

Input read_images(const py::object& object, std::int64_t channels) {
  Input input;
  input.owner = checked_array(object, channels);
  ImageView image;
  if (!describe(input.owner, image, channels)) {
    const std::string strides = text_of(input.owner.attr("strides"));
    const bool fit = fits(py::cast<std::int64_t>(input.owner.attr("nbytes")));
    if (fit) input.owner = py::array_t<std::uint8_t, py::array::c_style>::ensure(input.owner);
    if (!fit || !input.owner)
      throw Error("not enough memory to copy the image, which its layout (strides " + strides + ") needs");
    describe(input.owner, image, channels);
  }
  input.batch = input.owner.ndim() == 4;
  const py::ssize_t count = input.batch ? input.owner.shape(0) : 1;
  const py::ssize_t step = input.batch ? input.owner.strides(0) : 0;
  for (py::ssize_t i = 0; i < count; ++i, image.data += step) input.images.push_back(image);
  return input;
}

// ---- masks and logits out ----

// Make an array over `elements`, and keep them alive as long as the array.
template <typename Element>
py::array share(const std::shared_ptr<const Element>& elements, std::vector<py::ssize_t> shape, bool batch) {
  if (!batch) shape.erase(shape.begin());
  using Owner = std::shared_ptr<const Element>;
  auto owner = std::make_unique<Owner>(elements);
  const py::capsule capsule(owner.get(), [](void* pointer) { delete static_cast<Owner*>(pointer); });
  return py::array_t<Element>(std::move(shape), owner.release()->get(), capsule);
}

py::array segment(const segnets::Model& model, const py::object& object) {
  const Input input = read_images(object, model.contract().in_channels());
  const segnets::MaskBatch masks = [&] {
    const py::gil_scoped_release others_may_run;
    return model.segment_batch(input.images);
  }();
  std::vector<py::ssize_t> shape = {masks.count, masks.height, masks.width};
  if (masks.planes > 0) shape.insert(shape.begin() + 1, masks.planes);
  return masks.narrow ? share(masks.narrow, shape, input.batch) : share(masks.wide, shape, input.batch);
}

py::array logits(const segnets::Model& model, const py::object& object) {
  const Input input = read_images(object, model.contract().in_channels());
  const segnets::LogitsBatch logits = [&] {
    const py::gil_scoped_release others_may_run;
    return model.logits_batch(input.images);
  }();
  return share(logits.values, {logits.count, logits.num_classes, logits.height, logits.width}, input.batch);
}

// ---- the module ----

// Return the model of a Python object. One that `Model.__new__` or `copy` made has none, and pybind11 would hand out
// uninitialised memory instead.
const segnets::Model& loaded(const py::object& self) {
  if (!py::isinstance<segnets::Model>(self)) throw py::type_error("expected a segnets_native.Model");
  auto* instance = reinterpret_cast<py::detail::instance*>(self.ptr());
  if (!instance->get_value_and_holder().holder_constructed())
    throw Error("this Model holds no file; make it with segnets_native.Model(path)");
  return py::cast<const segnets::Model&>(self);
}

// Return a method that calls `function` with a loaded model.
template <typename Result, typename... Arguments>
auto method(Result (*function)(const segnets::Model&, Arguments...)) {
  return [function](const py::object& self, Arguments... arguments) { return function(loaded(self), arguments...); };
}

void warm_up(const segnets::Model& model, std::int64_t height, std::int64_t width, int calls) {
  const py::gil_scoped_release others_may_run;
  model.warm_up(height, width, calls);
}

segnets::SelfTest self_test(const segnets::Model& model) {
  const py::gil_scoped_release others_may_run;
  return model.self_test();
}

py::object contract(const segnets::Model& model) {
  return py::module_::import("json").attr("loads")(model.contract().json);
}

std::unique_ptr<segnets::Model> load(const py::object& path, bool keep_memory) {
  const std::string name = py::bytes(py::module_::import("os").attr("fsencode")(path));
  if (name.find('\0') != std::string::npos) throw Error("the path has a null character in it");
  const py::gil_scoped_release others_may_run;
  return std::make_unique<segnets::Model>(name, segnets::LoadOptions{keep_memory});
}

std::string represent(const segnets::Model& model) {
  return "<segnets_native.Model " + model.contract().model_name + ", " + std::to_string(model.contract().num_classes) +
         " classes>";
}

std::string represent(const segnets::SelfTest& test) {
  return std::string("<segnets_native.SelfTest ") + (test.passed ? "passed" : "FAILED") + ", classes of " +
         std::to_string(test.disagreements) + " of " + std::to_string(test.pixels) + " pixels differ, " +
         std::to_string(test.near_ties) + " of them near-ties>";
}

}  // namespace

PYBIND11_MODULE(segnets_native, module) {
  module.doc() = "Run exported models with LibTorch on NumPy arrays, without importing torch.";
  plain_error.call_once_and_store_result([&] {
    return py::reinterpret_steal<py::object>(PyErr_NewExceptionWithDoc(
        "segnets_native.Error",
        "Bad input, or a file that can't be used: what is wrong and what to do, in one line.\n\n"
        "A ValueError; and a segnets.errors.SegnetsError in programs that have imported segnets.",
        PyExc_ValueError, nullptr));
  });
  module.attr("Error") = plain_error.get_stored();
  py::register_local_exception_translator(translate);

  using segnets::SelfTest;
  const auto only_returned = [](PyHeapTypeObject* type) {
    type->ht_type.tp_flags |= Py_TPFLAGS_DISALLOW_INSTANTIATION;
    type->ht_type.tp_new = nullptr;
  };
  py::class_<SelfTest>(module, "SelfTest", py::module_local(), py::custom_type_setup(only_returned),
                       "Measurements of a replay of the golden pair.")
      .def_readonly("sample_difference", &SelfTest::sample_difference,
                    "of the preprocessed image, in gray levels of 0..255")
      .def_readonly("logits_difference", &SelfTest::logits_difference, "relative to the largest logit")
      .def_readonly("tolerance", &SelfTest::tolerance)
      .def_readonly("pixels", &SelfTest::pixels)
      .def_readonly("disagreements", &SelfTest::disagreements, "pixels whose class differs")
      .def_readonly("near_ties", &SelfTest::near_ties,
                    "of these, pixels whose two largest logits were within the tolerance")
      .def_readonly("passed", &SelfTest::passed)
      .def("__repr__", py::overload_cast<const SelfTest&>(represent));

  using segnets::Model;
  py::class_<Model>(module, "Model", py::module_local(), "An exported model, safe to use from many threads at once.")
      .def(py::init(&load), py::arg("path"), py::kw_only(), py::arg("keep_memory") = true,
           "Load a file written by segnets.export. It is a program: load only files that you trust. Raises Error.")
      .def("segment", method(&segment), py::arg("image"),
           "Return the class id of every pixel.\n\n"
           "image: (H, W, C) or (N, H, W, C) uint8, 0..255, RGB for three channels; (H, W) for one channel. Read\n"
           "where it is unless its rows or pixels run backwards; `bgr[..., ::-1]` costs nothing.\n"
           "Returns (H, W) or (N, H, W), uint8 up to 256 classes, else int16; or planes of 0 and 1, (C, H, W) or\n"
           "(N, C, H, W), uint8, of a multi-label model. Raises Error.")
      .def("logits", method(&logits), py::arg("image"),
           "Return the logits before argmax, at the size of the network's input.\n\n"
           "Returns (C, h, w) or (N, C, h, w) float32. Raises Error.")
      .def("warm_up", method(&warm_up), py::arg("height"), py::arg("width"), py::arg("calls") = 2,
           "Segment a gray image of this size, so that the next call is as fast as the later ones. Raises Error.")
      .def("self_test", method(&self_test),
           "Replay the golden image of the file and compare the outputs. Raises Error if the file has none.")
      .def_property_readonly("contract", method(&contract),
                             "Contract of the file: segnets.json as a dictionary, a new one each time.")
      .def("__repr__", method(static_cast<std::string (*)(const Model&)>(represent)));

  module.def("set_threads", &segnets::set_threads, py::arg("count"),
             "Set how many threads one operator may use (1..1024), in the whole process, before the first call.\n"
             "If several Python threads call one model, 1 is fastest. Raises Error.");
}
