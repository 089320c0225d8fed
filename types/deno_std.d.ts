/**
 * The types of the two modules taken from Deno's standard library. npm's `deno-std` is that library's
 * JavaScript without its declarations, so what may be used of it is declared here, as Deno has it in
 * @std/assert and @std/cli, and `deno check` looks at every call. deno.json names this file under
 * `compilerOptions.types`; import_map.json pins the version.
 */

declare module "@std/assert" {
  // deno-lint-ignore no-explicit-any
  type ErrorClass<E extends Error> = abstract new (...args: any[]) => E;

  export class AssertionError extends Error {}

  export function assert(expr: unknown, msg?: string): asserts expr;
  export function assertFalse(expr: unknown, msg?: string): asserts expr is false;
  export function assertEquals<T>(actual: T, expected: T, msg?: string): void;
  export function assertNotEquals<T>(actual: T, expected: T, msg?: string): void;
  export function assertStrictEquals<T>(
    actual: unknown,
    expected: T,
    msg?: string,
  ): asserts actual is T;
  export function assertNotStrictEquals<T>(actual: T, expected: T, msg?: string): void;
  export function assertAlmostEquals(
    actual: number,
    expected: number,
    tolerance?: number,
    msg?: string,
  ): void;
  export function assertGreater<T>(actual: T, expected: T, msg?: string): void;
  export function assertGreaterOrEqual<T>(actual: T, expected: T, msg?: string): void;
  export function assertLess<T>(actual: T, expected: T, msg?: string): void;
  export function assertLessOrEqual<T>(actual: T, expected: T, msg?: string): void;
  export function assertExists<T>(actual: T, msg?: string): asserts actual is NonNullable<T>;
  export function assertInstanceOf<T>(
    actual: unknown,
    // deno-lint-ignore no-explicit-any
    expectedType: abstract new (...args: any[]) => T,
    msg?: string,
  ): asserts actual is T;
  export function assertMatch(actual: string, expected: RegExp, msg?: string): void;
  export function assertNotMatch(actual: string, expected: RegExp, msg?: string): void;
  export function assertStringIncludes(actual: string, expected: string, msg?: string): void;
  export function assertArrayIncludes<T>(
    actual: ArrayLike<T>,
    expected: ArrayLike<T>,
    msg?: string,
  ): void;
  export function assertObjectMatch(
    // deno-lint-ignore no-explicit-any
    actual: Record<PropertyKey, any>,
    expected: Record<PropertyKey, unknown>,
    msg?: string,
  ): void;
  export function assertIsError<E extends Error = Error>(
    error: unknown,
    errorClass?: ErrorClass<E>,
    msgMatches?: string | RegExp,
    msg?: string,
  ): asserts error is E;
  export function assertThrows(fn: () => unknown, msg?: string): unknown;
  export function assertThrows<E extends Error = Error>(
    fn: () => unknown,
    errorClass: ErrorClass<E>,
    msgIncludes?: string,
    msg?: string,
  ): E;
  export function assertRejects(fn: () => PromiseLike<unknown>, msg?: string): Promise<unknown>;
  export function assertRejects<E extends Error = Error>(
    fn: () => PromiseLike<unknown>,
    errorClass: ErrorClass<E>,
    msgIncludes?: string,
    msg?: string,
  ): Promise<E>;
  export function equal(a: unknown, b: unknown): boolean;
  export function fail(msg?: string): never;
  export function unreachable(msg?: string): never;
  export function unimplemented(msg?: string): never;
}

declare module "@std/cli/parse-args" {
  /**
   * `--name value`, `--name=value` and `-n value` for names in `string`, `--name` for names in
   * `boolean`; what is left goes to `_`. A name that appears in neither is given to `unknown`.
   * A `string` name that isn't on the command line is undefined, a `boolean` one is false, one in
   * `collect` is all the values that it was given.
   */
  export function parseArgs<
    S extends string = never,
    B extends string = never,
    C extends string = never,
  >(
    args: readonly string[],
    options?: {
      string?: readonly S[];
      boolean?: readonly B[];
      collect?: readonly C[];
      alias?: Readonly<Record<string, string | readonly string[]>>;
      default?: Readonly<Partial<Record<S, string> & Record<B, boolean>>>;
      /** Everything after the first argument that is no option goes to `_`. */
      stopEarly?: boolean;
      /** What follows `--` goes to the key "--" instead of `_`. */
      "--"?: boolean;
      /** Called for every undeclared option (`key` is set) or positional (it isn't); false drops it. */
      unknown?: (arg: string, key?: string, value?: unknown) => unknown;
    },
  ):
    & { _: (string | number)[]; "--"?: string[] }
    & { [name in Exclude<S, C>]?: string }
    & { [name in C]: string[] }
    & { [name in B]: boolean };
}
