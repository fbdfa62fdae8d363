// Writes what torch::save of a C++ program writes, with tensors that come from Python.
//
//   cpp-archive module|tensors|tensor|optimizer IN OUT
//
// IN is a dict of str to Tensor, written by Python's torch.save. "module" makes a tree of torch::nn::Module of the
// dotted names, "tensors" a std::vector<torch::Tensor>, "tensor" the first one alone, and "optimizer" the state of an
// SGD with momentum after one step.
#include <torch/csrc/jit/serialization/pickle.h>
#include <torch/torch.h>

#include <cstdlib>
#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

using Tensors = std::vector<std::pair<std::string, torch::Tensor>>;

Tensors read_tensors(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw std::runtime_error("can't open " + path);
  }
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  Tensors tensors;
  for (const auto& item : torch::pickle_load(bytes).toGenericDict()) {
    tensors.emplace_back(item.key().toStringRef(), item.value().toTensor());
  }
  return tensors;
}

bool is_buffer(const std::string& name, const torch::Tensor& tensor) {
  return !tensor.is_floating_point() || name == "running_mean" || name == "running_var";
}

std::shared_ptr<torch::nn::Module> tree_of(const Tensors& tensors) {
  auto root = std::make_shared<torch::nn::Module>();
  for (const auto& [path, tensor] : tensors) {
    auto node = root;
    std::size_t start = 0;
    for (std::size_t dot = path.find('.'); dot != std::string::npos; dot = path.find('.', start)) {
      const std::string name = path.substr(start, dot - start);
      const auto children = node->named_children();
      const auto* found = children.find(name);
      node = found != nullptr ? *found : node->register_module(name, std::make_shared<torch::nn::Module>());
      start = dot + 1;
    }
    const std::string name = path.substr(start);
    if (is_buffer(name, tensor)) {
      node->register_buffer(name, tensor);
    } else {
      node->register_parameter(name, tensor);
    }
  }
  return root;
}

void save_optimizer(const Tensors& tensors, const std::string& path) {
  std::vector<torch::Tensor> parameters;
  for (const auto& [name, tensor] : tensors) {
    if (!is_buffer(name, tensor)) {
      parameters.push_back(tensor.clone().requires_grad_());
      parameters.back().mutable_grad() = torch::ones_like(parameters.back());
    }
  }
  torch::optim::SGD optimizer(parameters, torch::optim::SGDOptions(0.1).momentum(0.9));
  optimizer.step();
  torch::save(optimizer, path);
}

void run(const std::string& kind, const std::string& in, const std::string& out) {
  const Tensors tensors = read_tensors(in);
  if (kind == "module") {
    torch::save(tree_of(tensors), out);
  } else if (kind == "tensors") {
    std::vector<torch::Tensor> list;
    for (const auto& item : tensors) {
      list.push_back(item.second);
    }
    torch::save(list, out);
  } else if (kind == "tensor") {
    torch::save(tensors.at(0).second, out);
  } else if (kind == "optimizer") {
    save_optimizer(tensors, out);
  } else {
    throw std::runtime_error("unknown kind " + kind);
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 4) {
    std::cerr << "usage: cpp-archive module|tensors|tensor|optimizer IN OUT\n";
    return 2;
  }
  try {
    run(arguments[1], arguments[2], arguments[3]);
  } catch (const std::exception& error) {
    std::cerr << "cpp-archive: " << error.what() << '\n';
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}
