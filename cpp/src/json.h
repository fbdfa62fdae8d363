// A small strict JSON reader (RFC 8259) for the contract and for safetensors headers.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace segnets {

class Json {
 public:
  using Array = std::vector<Json>;
  using Object = std::map<std::string, Json>;

  // Throws Error: "<what>: not JSON: ...". Nesting deeper than 64, repeated keys and trailing text are refused.
  static Json parse(std::string_view text, const std::string& what);

  // Return the value; throw Error, naming `path`, if it has the wrong type.
  const Array& array() const;
  const Object& object() const;
  const std::string& string() const;
  double number() const;
  std::int64_t integer() const;  // a whole number, |value| <= 2^53

  const Json& at(const std::string& key) const;  // throws Error if there is none
  const Json* find(const std::string& key) const;

 private:
  friend class JsonReader;
  std::variant<std::nullptr_t, bool, double, std::string, Array, Object> value_;
  std::string path_;  // its name, for messages
};

}  // namespace segnets
