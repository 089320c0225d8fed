/**
 * The types of the two modules taken from Deno's standard library. npm's `deno-std` is that library's
 * JavaScript without its declarations, so what is used of it is declared here, as Deno has it in
 * @std/assert and @std/cli, and `deno check` looks at every call. deno.json names this file under
 * `compilerOptions.types`; import_map.json pins the version.
 */

declare module "@std/assert" {
  // deno-lint-ignore no-explicit-any
  type ErrorClass<E extends Error> = abstract new (...args: any[]) => E;

  export function assert(expr: unknown, msg?: string): asserts expr;
  export function assertEquals<T>(actual: T, expected: T, msg?: string): void;
  export function assertNotEquals<T>(actual: T, expected: T, msg?: string): void;
  export function assertAlmostEquals(
    actual: number,
    expected: number,
    tolerance?: number,
    msg?: string,
  ): void;
  export function assertGreater<T>(actual: T, expected: T, msg?: string): void;
  export function assertLess<T>(actual: T, expected: T, msg?: string): void;
  export function assertMatch(actual: string, expected: RegExp, msg?: string): void;
  export function assertStringIncludes(actual: string, expected: string, msg?: string): void;
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
      /** Called for every undeclared option (`key` is set) or positional (it isn't); false drops it. */
      unknown?: (arg: string, key?: string, value?: unknown) => unknown;
    },
  ):
    & { _: (string | number)[] }
    & { [name in Exclude<S, C>]?: string }
    & { [name in C]: string[] }
    & { [name in B]: boolean };
}
